"""How options are declared: by recipes for their own keys and by components for theirs.

A component's `Config` is a frozen attrs class whose fields are made with `option` and `component_option`:

    @config
    class Config:
        truncation: float = option(default=1.42, gt=0, help="largest distance at which a pair is open")
        linear: ComponentSpec = component_option("linear", default="modlin", help="the modulated map inside the body")

The annotation is the type that the recipe must give (bool, int, float, str, Literal, X | None, tuple[X, ...],
tuple[X, Y], dict[str, X], a nested config). Bounds and help are stored in the field's metadata, so that the loader, the
schema and `ni show` read the same declaration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, dataclass_transform

import attrs

# The kinds of components that recipes choose by name.
COMPONENT_KINDS = ("embedding", "type_inference", "router", "body", "halting", "linear", "input", "head", "data")

COMPONENT_NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What the name of a component looks like in a recipe; anything else could be a path to code."""

_BOUND_CHECKS = {
    "ge": ("at least", lambda value, bound: value >= bound),
    "gt": ("greater than", lambda value, bound: value > bound),
    "le": ("at most", lambda value, bound: value <= bound),
    "lt": ("less than", lambda value, bound: value < bound),
}

# Names of plugin API 1 in this module, each with its name in plugin API 2.
_API_1_NAMES = {"Choice": "ComponentSpec", "component": "component_option"}


def __getattr__(name: str) -> Any:
    """Reports names of plugin API 1 as an `ImportError`: `from ... import` would drop the message of an `AttributeError`."""
    if name in _API_1_NAMES:
        raise ImportError(f"{__name__}.{name} is now {_API_1_NAMES[name]} (plugin API 2)")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def option(*, default: Any = attrs.NOTHING, example: Any = None, help: str, **bounds: float) -> Any:
    """A field of a config.

    Args:
        default: The value of a key that the recipe does not give; without it the key is required.
        example: A value of a required key, as YAML would give it. The conformance checks build the component with it.
        help: What the key is for, in a phrase.
        bounds: `ge`, `gt`, `le`, `lt`: bounds of the number, or of each number in a list or a mapping.

    Raises:
        TypeError: for an unknown bound. A misspelt one would otherwise never be checked.
    """
    if unknown := bounds.keys() - _BOUND_CHECKS.keys():
        raise TypeError(f"unknown bound {sorted(unknown)}; known are {sorted(_BOUND_CHECKS)}")
    return attrs.field(
        default=default, validator=_check_bounds, metadata={"help": help, "bounds": bounds, "example": example}
    )


def component_option(
    kind: str, *, default: str | None = None, optional: bool = False, example: Any = None, help: str
) -> Any:
    """A field that holds a `ComponentSpec`: another component, chosen by name in the recipe (`{use: name, ...}`).

    Args:
        kind: The kind of the component, one of `COMPONENT_KINDS`.
        default: The name of the component that is used if the recipe does not give the key. It is a name and not a value,
            because only the loader can resolve it to a `ComponentSpec`.
        optional: Whether the key may be absent or null; its value is then None, and its annotation `ComponentSpec | None`.
        example: A value of a key that has no default and is not optional, as for `option`.
        help: What the component is for, in a phrase.
    """
    metadata = {"help": help, "bounds": {}, "kind": kind, "use": default, "example": example}
    return attrs.field(default=None, metadata=metadata) if optional else attrs.field(metadata=metadata)


def find_bound_violation(field: attrs.Attribute[Any], value: object) -> str | None:
    """What is wrong with a value of the right type, as in "must be at least 1, not 0"; None if nothing is."""
    for number in _numbers_in(value):
        if isinstance(number, float) and not math.isfinite(number):
            return f"must be a finite number, not {number}"
        for name, bound in field.metadata["bounds"].items():
            phrase, is_within = _BOUND_CHECKS[name]
            if not is_within(number, bound):
                return f"must be {phrase} {bound}, not {number}"
    return None


def _numbers_in(value: object) -> list[int | float]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers_in(item)]
    return []


def _check_bounds(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if message := find_bound_violation(field, value):
        raise ValueError(f"{field.name}: {message}")


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(option, component_option, attrs.field)
)
def config(cls: type) -> Any:
    """Makes a class a frozen attrs class of options, whose values are passed by keyword."""
    return attrs.frozen(kw_only=True)(cls)


@attrs.frozen
class ComponentSpec:
    """A component that a recipe chooses: its name, its options (an instance of its `Config`) and its key path."""

    use: str
    options: Any
    path: str = attrs.field(default="", eq=False, repr=False)  # "model.body.linear"
