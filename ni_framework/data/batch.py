"""Batches: moved, divided, and weighed by which samples have an answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ni_framework.contracts import Batch


def each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """A batch with every tensor changed."""
    return Batch(
        change(batch.inputs),
        {task: change(target) for task, target in batch.targets.items()},
        None if batch.mask is None else change(batch.mask),
        {task: change(present) for task, present in batch.present.items()},
        None if batch.key is None else change(batch.key),
    )


def to(batch: Batch, device: torch.device) -> Batch:
    """A batch on another device."""
    return each(batch, lambda tensor: tensor.to(device))


def parts(batch: Batch, number: int) -> list[Batch]:
    """A batch in `number` parts of equal size."""
    size = len(batch.inputs) // number
    starts = range(0, len(batch.inputs), size)
    return [each(batch, lambda tensor, start=start: tensor[start : start + size]) for start in starts]


def weight_of(batch: Batch, task: str) -> Tensor:
    """1 for each sample that has an answer for the task, else 0; [B]."""
    present = batch.present.get(task)
    return torch.ones(len(batch.inputs), device=batch.inputs.device) if present is None else present.float()
