"""Frozen weights: a step leaves them bit-identical, whatever weight decay and the optimizer state would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def freeze(model: nn.Module, frozen_prefix_sizes: Mapping[str, int]) -> None:
    """Excludes fully frozen parameters from training; in others, the frozen first elements get a gradient of 0.

    Args:
        model: The model to be trained.
        frozen_prefix_sizes: How many elements are frozen, counted from the first one, by the name of the parameter.
    """
    for name, parameter in model.named_parameters():
        prefix_size = frozen_prefix_sizes.get(name, 0)
        if prefix_size >= getattr(parameter, "ds_numel", parameter.numel()):
            parameter.requires_grad_(False)
        elif prefix_size and parameter.requires_grad:
            parameter.register_hook(_zero_prefix_hook(prefix_size))


def _zero_prefix_hook(prefix_size: int) -> Callable[[Tensor], Tensor]:
    def zero_prefix(gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        gradient.view(-1)[:prefix_size] = 0
        return gradient

    return zero_prefix


def restore_frozen_after_step(optimizer: Any, views: Callable[[], Sequence[Tensor]]) -> None:
    """Restores the frozen elements after each step of an optimizer: a gradient of 0 alone does not stop weight decay."""
    saved_values: list[Tensor] = []

    def save(*_: object) -> None:
        saved_values[:] = [view.clone() for view in views()]

    def restore(*_: object) -> None:
        with torch.no_grad():
            for view, value in zip(views(), saved_values, strict=True):
                view.copy_(value)

    optimizer.register_step_pre_hook(save)
    optimizer.register_step_post_hook(restore)
