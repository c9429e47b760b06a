"""Batches: moving them to a device, splitting them, and weighting samples by whether they have a target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ni_framework.contracts import Batch


def map_tensors(batch: Batch, transform: Callable[[Tensor], Tensor]) -> Batch:
    """Returns a batch with `transform` applied to every tensor."""
    return Batch(
        transform(batch.inputs),
        {task: transform(target) for task, target in batch.targets.items()},
        None if batch.mask is None else transform(batch.mask),
        {task: transform(present) for task, present in batch.present.items()},
        None if batch.key is None else transform(batch.key),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Returns a batch on another device."""
    return map_tensors(batch, lambda tensor: tensor.to(device))


def split_batch(batch: Batch, num_micro_batches: int) -> list[Batch]:
    """Returns a batch as `num_micro_batches` micro-batches of equal size."""
    size = len(batch.inputs) // num_micro_batches
    starts = range(0, len(batch.inputs), size)
    return [map_tensors(batch, lambda tensor, start=start: tensor[start : start + size]) for start in starts]


def sample_weights(batch: Batch, task: str) -> Tensor:
    """Returns 1 for each sample that has a target for the task, else 0; [B]."""
    present = batch.present.get(task)
    return torch.ones(len(batch.inputs), device=batch.inputs.device) if present is None else present.float()
