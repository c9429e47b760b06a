"""Whether a component answered what the contract asks; a wrong answer would fail far from where it was given."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ni_framework.contracts import Answer
from ni_framework.errors import PluginError, Problem
from ni_framework.registry import installed


def check_answer(part: str, component: Any, answer: Answer, shape: tuple[int, ...]) -> None:
    """Raises `PluginError` for a result that is no tensor of this shape, or a loss that is no scalar.

    A body may answer all functions alike, with 1 for their number.
    """
    result: Any = answer.result
    if not isinstance(result, Tensor):
        raise _wrong(part, component, f"returned {_said(result)}", shape)
    alike = part == "body" and tuple(result.shape) == (1, *shape[1:])
    if tuple(result.shape) != shape and not alike:
        raise _wrong(part, component, f"returned a tensor {list(result.shape)}", shape)
    for name, loss in answer.losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            said = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else _said(loss)
            raise _wrong(part, component, f"returned {said} as its loss `{name}`, which must be a scalar tensor", shape)


def _wrong(part: str, component: Any, said: str, shape: tuple[int, ...]) -> PluginError:
    cls = type(component)
    value = f"{cls.__module__}:{cls.__qualname__}"
    label = next((entry.label for entry in installed().entries if entry.value == value), f"{part} {cls.__name__}")
    hint = f"its forward returns a tensor {list(shape)} here, or an Answer with one; ni plugin test says more"
    return PluginError([Problem(f"{label} ({value}) {said}", hint=hint)])


def _said(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
