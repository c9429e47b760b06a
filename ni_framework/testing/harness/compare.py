"""Whether two tensors are the same, up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.testing.failures import Failure
from ni_framework.testing.harness.invocation import RESULTS, Told

TOLERANCE = 1e-9  # of the largest number in float64


def same(what: str, before: Tensor | None, after: Tensor | None, when: str = "", tolerance: float = TOLERANCE) -> None:
    """Raises `Failure` where two tensors differ by more than a part of the largest number; None stands for zeros."""
    before, after = (torch.zeros(()) if value is None else value for value in (before, after))
    if before.ndim and after.ndim and before.shape != after.shape:
        raise Failure(f"{what} is {list(after.shape)}, not {list(before.shape)}{when and f', {when}'}")
    after = after.to(before)
    scale = float(before.detach().abs().max().clamp_min(1e-3)) if before.numel() else 1.0
    if not torch.allclose(before, after, rtol=0, atol=tolerance * scale):
        raise Failure(f"{what} differs by up to {(before - after).abs().max().item():.2g}{when and f' {when}'}")


def same_results(before: Told, after: Told, when: str, tolerance: float = TOLERANCE) -> None:
    """The same for everything that two calls returned."""
    for name, value in before.results.items():
        same(f"its {name} {RESULTS[name]}", value, after.results[name], when, tolerance)
