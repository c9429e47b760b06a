"""How options are declared: by recipes for their own keys and by components for theirs.

A component's `Config` is a frozen attrs class whose fields are made with `option` and `component`:

    @config
    class Config:
        truncation: float = option(default=1.42, gt=0, help="largest distance at which a pair is open")
        linear: Choice = component("linear", default="modlin", help="the modulated map inside the body")

The annotation is the type that the recipe must give (bool, int, float, str, Literal, X | None, tuple[X, ...],
tuple[X, Y], dict[str, X], a nested config); bounds and help live in the field's metadata, so that the loader, the schema
and `ni show` read one declaration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, dataclass_transform

import attrs

KINDS = (
    "embedding",
    "type_inference",
    "router",
    "body",
    "halting",
    "linear",
    "input",
    "head",
    "data",
)  # of components that recipes choose by name

_BOUNDS = {
    "ge": ("at least", lambda value, bound: value >= bound),
    "gt": ("greater than", lambda value, bound: value > bound),
    "le": ("at most", lambda value, bound: value <= bound),
    "lt": ("less than", lambda value, bound: value < bound),
}


def option(*, default: Any = attrs.NOTHING, example: Any = None, help: str, **bounds: float) -> Any:
    """A field of a config, with its help text and its bounds (`ge`, `gt`, `le`, `lt`, which hold for each number in it).

    One without a default needs an `example`, as YAML would give it: checks of conformance build the component with it.
    Raises `TypeError` for an unknown bound: a misspelt one would otherwise never be enforced.
    """
    if unknown := bounds.keys() - _BOUNDS.keys():
        raise TypeError(f"unknown bound {sorted(unknown)}; known are {sorted(_BOUNDS)}")
    return attrs.field(
        default=default, validator=_enforce, metadata={"help": help, "bounds": bounds, "example": example}
    )


def component(kind: str, *, default: str | None = None, optional: bool = False, example: Any = None, help: str) -> Any:
    """A field that holds a `Choice`: another component of `kind`, chosen by name in the recipe (`{use: name, ...}`).

    With a default name the key may be left out. The default is a name, not a value: only the loader can turn it into a
    `Choice`, because only it knows what is installed. An optional one is annotated `Choice | None`, and None if left out.
    One that is neither needs an `example`, as `option` does.
    """
    metadata = {"help": help, "bounds": {}, "kind": kind, "use": default, "example": example}
    return attrs.field(default=None, metadata=metadata) if optional else attrs.field(metadata=metadata)


def violation(field: attrs.Attribute[Any], value: object) -> str | None:
    """What is wrong with a value of the right type, as in "must be at least 1, not 0"; None if nothing is."""
    for number in _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            return f"must be a finite number, not {number}"
        for name, bound in field.metadata["bounds"].items():
            words, holds = _BOUNDS[name]
            if not holds(number, bound):
                return f"must be {words} {bound}, not {number}"
    return None


def _numbers(value: object) -> list[int | float]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return []


def _enforce(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if message := violation(field, value):
        raise ValueError(f"{field.name}: {message}")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, component, attrs.field))
def config(cls: type) -> Any:
    """Makes a class a frozen attrs class of options, given by keyword only."""
    return attrs.frozen(kw_only=True)(cls)


@attrs.frozen
class Choice:
    """A component chosen by a recipe: its name, its options (an instance of its `Config`), and where the recipe says so."""

    use: str
    options: Any
    path: str = attrs.field(default="", eq=False, repr=False)  # "model.body.linear"
