"""Checks that a component returned what its contract asks for; a wrong output would fail far from its cause."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ni_framework.contracts import Output
from ni_framework.errors import PluginError, Problem
from ni_framework.registry import installed_catalog


def check_output(kind: str, component: Any, output: Output, shape: tuple[int, ...]) -> None:
    """Raises `PluginError` if the value is not a tensor of this shape, or a loss is not a scalar.

    A body may return the same rows for all functions, with 1 as their number.

    Args:
        kind: the component's kind, as "router".
        component: the component, which the error message names.
        output: what the component returned.
        shape: the shape that the contract asks for.
    """
    value: Any = output.value
    if not isinstance(value, Tensor):
        raise _output_error(kind, component, f"returned {_value_type_name(value)}", shape)
    is_broadcast = kind == "body" and tuple(value.shape) == (1, *shape[1:])
    if tuple(value.shape) != shape and not is_broadcast:
        raise _output_error(kind, component, f"returned a tensor {list(value.shape)}", shape)
    for name, loss in output.aux_losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            description = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else _value_type_name(loss)
            raise _output_error(
                kind, component, f"returned {description} as its loss `{name}`, which must be a scalar tensor", shape
            )


def _output_error(kind: str, component: Any, description: str, shape: tuple[int, ...]) -> PluginError:
    cls = type(component)
    value = f"{cls.__module__}:{cls.__qualname__}"
    label = next(
        (entry.label for entry in installed_catalog().entries if entry.value == value), f"{kind} {cls.__name__}"
    )
    hint = f"its forward returns a tensor {list(shape)} here, or an Output with one; ni plugin test reports more"
    return PluginError([Problem(f"{label} ({value}) {description}", hint=hint)])


def _value_type_name(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
