"""What a config class declares: its keys with their annotations and metadata, looked up once."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from ni_framework.errors import Problem
from ni_framework.options import Choice

Resolve = Callable[[str, str], type]
"""From a kind and a name to the component's `Config` class; raises `RecipeError` or `PluginError` if it cannot."""

Unmet = Callable[[str], Problem | None]
"""From an entry of `requires` to what keeps it from being met; raises `RecipeError` for what is no requirement."""

Refusal = tuple[str, str]
"""Why a key is refused, and what to do instead."""


class Passed:
    """Base of a config that is passed on to another library, under that library's names.

    A key that is not given is None, and left to that library. Names of its keys that are not passed on stand in `REFUSED`.
    """

    __slots__ = ()
    REFUSED: ClassVar[Mapping[str, Refusal]] = {}


@attrs.frozen
class Field:
    """One key of a config: its declaration and the annotation as a type."""

    attribute: attrs.Attribute[Any]
    annotation: Any

    @property
    def kind(self) -> str | None:
        """The kind of component that the key chooses, None for a plain option."""
        return self.attribute.metadata.get("kind")

    @property
    def use(self) -> str | None:
        """The component that is used where the recipe names none."""
        return self.attribute.metadata.get("use")

    @property
    def help(self) -> str | None:
        """What the key is for."""
        return self.attribute.metadata.get("help")


@functools.lru_cache(maxsize=1024)
def fields_of(cls: type) -> Mapping[str, Field]:
    """The keys of a config class in their order: its fields made with `option` and `component`, and no others.

    Raises `TypeError` for a class that is no config, or with a type that a recipe cannot give.
    """
    if not attrs.has(cls):
        raise TypeError("it is not made with `options.config`")
    hints = get_type_hints(cls)
    fields = [Field(field, hints[field.name]) for field in attrs.fields(cls) if "help" in field.metadata]
    for field in fields:
        _check(field.annotation, field)
    return {field.attribute.name: field for field in fields}


def refusals_of(cls: type) -> Mapping[str, Refusal]:
    """The keys that a config class knows and does not take."""
    return cls.REFUSED if issubclass(cls, Passed) else {}


def examples_of(cls: type) -> dict[str, Any]:
    """What a config class gives as examples of the keys that have no default; None where it gives none."""
    return {
        name: field.attribute.metadata.get("example")
        for name, field in fields_of(cls).items()
        if field.attribute.default is attrs.NOTHING and field.use is None
    }


def _check(annotation: Any, field: Field) -> None:
    for member in members(annotation):
        if get_origin(member) is tuple:
            for item in get_args(member):
                if item is not Ellipsis:
                    _check(item, field)
        elif is_free(member) and get_args(member)[0] is str:
            _check(get_args(member)[1], field)
        elif member is Choice and not field.kind:
            raise TypeError(f"its option `{field.attribute.name}` is a Choice and not made with `options.component`")
        elif is_config(member):
            fields_of(member)
        elif not (is_plain(member) or member is Choice):
            raise TypeError(f"its option `{field.attribute.name}` is {annotation}, which no recipe can give")


def members(annotation: Any) -> tuple[Any, ...]:
    """The types that a union allows, or the one type that an annotation is."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for argument in get_args(annotation) for member in members(argument))
    return (annotation,)


def is_plain(annotation: Any) -> bool:
    """Whether a single value can be of this type."""
    return annotation in (bool, int, float, str, type(None), None) or get_origin(annotation) is Literal


def is_free(annotation: Any) -> bool:
    """Whether a type is a mapping with any keys."""
    return get_origin(annotation) in (dict, Mapping) and len(get_args(annotation)) == 2


def is_config(annotation: Any) -> bool:
    """Whether a type is a config of its own."""
    return isinstance(annotation, type) and attrs.has(annotation) and annotation is not Choice


def is_choice(annotation: Any) -> bool:
    """Whether a value of this type is named by `use`: a component, or a config that has a key `use`."""
    return any(member is Choice or (is_config(member) and "use" in fields_of(member)) for member in members(annotation))
