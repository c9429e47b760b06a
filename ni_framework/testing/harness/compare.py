"""Requires that two tensors are equal up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.testing.failures import Failure
from ni_framework.testing.harness.invocation import RESULT_AXES, CallResult

# Relative to the largest number of a float64 tensor.
FLOAT64_TOLERANCE = 1e-9


def require_close(
    what: str, before: Tensor | None, after: Tensor | None, when: str = "", tolerance: float = FLOAT64_TOLERANCE
) -> None:
    """Raises `Failure` if two tensors differ by more than `tolerance` times the largest number in `before`.

    Args:
        what: What the tensors are, as the subject of the message.
        before: The expected tensor; None stands for zeros.
        after: The tensor to compare; None stands for zeros.
        when: The circumstances, which the message ends with.
        tolerance: The largest difference, relative to the largest number in `before`.
    """
    before, after = (torch.zeros(()) if value is None else value for value in (before, after))
    if before.ndim and after.ndim and before.shape != after.shape:
        raise Failure(f"{what} is {list(after.shape)}, not {list(before.shape)}{when and f', {when}'}")
    after = after.to(before)
    scale = float(before.detach().abs().max().clamp_min(1e-3)) if before.numel() else 1.0
    if not torch.allclose(before, after, rtol=0, atol=tolerance * scale):
        raise Failure(f"{what} differs by up to {(before - after).abs().max().item():.2g}{when and f' {when}'}")


def require_close_results(
    before: CallResult, after: CallResult, when: str, tolerance: float = FLOAT64_TOLERANCE
) -> None:
    """Applies `require_close` to all results of two calls."""
    for name, value in before.results.items():
        require_close(f"its {name} {RESULT_AXES[name]}", value, after.results[name], when, tolerance)
