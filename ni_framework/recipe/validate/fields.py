"""What a config class declares: its keys with their annotations and metadata, read once per class."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from ni_framework.errors import Problem
from ni_framework.options import ComponentSpec

ConfigResolver = Callable[[str, str], type]
"""From a kind and a name to the component's `Config` class; raises `RecipeError` or `PluginError` if it cannot."""

RequirementChecker = Callable[[str], Problem | None]
"""From an entry of `requires` to the reason why it is not met; raises `RecipeError` for a text that is not a requirement."""

RejectedKey = tuple[str, str]
"""Why a key is rejected, and what to do instead."""


class RecipeConfig:
    """Base of the config classes of a recipe's own sections.

    `REJECTED` maps keys that the class knows and does not accept to the reason. `RENAMED` maps the old names of keys to
    their present names; such a key is rejected too, with its new name as the reason.
    """

    __slots__ = ()
    REJECTED: ClassVar[Mapping[str, RejectedKey]] = {}
    RENAMED: ClassVar[Mapping[str, str]] = {}


class PassThroughConfig(RecipeConfig):
    """Base of a config that is passed on to another library, under that library's names.

    A key that the recipe does not give is None and keeps that library's default. `REJECTED` lists the library's keys that
    are not passed on.
    """

    __slots__ = ()


@attrs.frozen
class Field:
    """One key of a config: its declaration and its annotation as a type."""

    attribute: attrs.Attribute[Any]
    annotation: Any

    @property
    def kind(self) -> str | None:
        """The kind of component that the key chooses; None for a plain option."""
        return self.attribute.metadata.get("kind")

    @property
    def default_use(self) -> str | None:
        """The component that is used if the recipe names none."""
        return self.attribute.metadata.get("use")

    @property
    def help(self) -> str | None:
        """What the key is for."""
        return self.attribute.metadata.get("help")


@functools.lru_cache(maxsize=1024)
def fields_of(cls: type) -> Mapping[str, Field]:
    """The keys of a config class in their order: the fields made with `option` and `component_option`, and no others.

    Raises `TypeError` for a class that is not a config, and for a type that a recipe cannot give.
    """
    if not attrs.has(cls):
        raise TypeError("it is not made with `options.config`")
    hints = get_type_hints(cls)
    fields = [Field(field, hints[field.name]) for field in attrs.fields(cls) if "help" in field.metadata]
    for field in fields:
        _check_annotation(field.annotation, field)
    return {field.attribute.name: field for field in fields}


def renamed_keys_of(cls: type) -> Mapping[str, str]:
    """The old names of a config class's keys, each with the present name."""
    return cls.RENAMED if issubclass(cls, RecipeConfig) else {}


def rejected_keys_of(cls: type) -> Mapping[str, RejectedKey]:
    """The keys that a config class knows and does not accept, old names of its keys included."""
    if not issubclass(cls, RecipeConfig):
        return {}
    renamed = {old: (f"is now called {new}", f"write `{new}`") for old, new in cls.RENAMED.items()}
    return {**cls.REJECTED, **renamed}


def examples_of(cls: type) -> dict[str, Any]:
    """The examples that a config class gives for its keys without a default; None where it gives none."""
    return {
        name: field.attribute.metadata.get("example")
        for name, field in fields_of(cls).items()
        if field.attribute.default is attrs.NOTHING and field.default_use is None
    }


def _check_annotation(annotation: Any, field: Field) -> None:
    for member in union_members(annotation):
        if get_origin(member) is tuple:
            for item in get_args(member):
                if item is not Ellipsis:
                    _check_annotation(item, field)
        elif is_open_mapping(member) and get_args(member)[0] is str:
            _check_annotation(get_args(member)[1], field)
        elif member is ComponentSpec and not field.kind:
            raise TypeError(
                f"its option `{field.attribute.name}` is a ComponentSpec and not made with `options.component_option`"
            )
        elif is_config_type(member):
            fields_of(member)
        elif not (is_scalar_type(member) or member is ComponentSpec):
            raise TypeError(f"its option `{field.attribute.name}` is {annotation}, which no recipe can give")


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The types that a union allows, or the one type that an annotation is."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for argument in get_args(annotation) for member in union_members(argument))
    return (annotation,)


def is_scalar_type(annotation: Any) -> bool:
    """Whether a single value can be of this type."""
    return annotation in (bool, int, float, str, type(None), None) or get_origin(annotation) is Literal


def is_open_mapping(annotation: Any) -> bool:
    """Whether a type is a mapping with any keys."""
    return get_origin(annotation) in (dict, Mapping) and len(get_args(annotation)) == 2


def is_config_type(annotation: Any) -> bool:
    """Whether a type is a nested config."""
    return isinstance(annotation, type) and attrs.has(annotation) and annotation is not ComponentSpec


def is_named_by_use(annotation: Any) -> bool:
    """Whether a value of this type is named by `use`: a component, or a config that has a key `use`."""
    return any(
        member is ComponentSpec or (is_config_type(member) and "use" in fields_of(member))
        for member in union_members(annotation)
    )
