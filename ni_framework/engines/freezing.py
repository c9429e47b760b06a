"""Weights that a step leaves as they are, to the last bit, whatever weight decay and what the optimizer remembers would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def freeze(model: nn.Module, held: Mapping[str, int]) -> None:
    """Takes whole parameters out of training; of others, the first `held` elements get a gradient of 0."""
    for name, parameter in model.named_parameters():
        number = held.get(name, 0)
        size = getattr(parameter, "ds_numel", parameter.numel())
        if number >= size:
            parameter.requires_grad_(False)
        elif number and parameter.requires_grad:
            parameter.register_hook(_without(number))


def _without(number: int) -> Callable[[Tensor], Tensor]:
    def of(gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        gradient.view(-1)[:number] = 0
        return gradient

    return of


def hold(optimizer: Any, views: Callable[[], Sequence[Tensor]]) -> None:
    """Puts back, after each of an optimizer's steps, what was there before it: a gradient of 0 does not stop weight decay."""
    kept: list[Tensor] = []

    def keep(*_: object) -> None:
        kept[:] = [view.clone() for view in views()]

    def put_back(*_: object) -> None:
        with torch.no_grad():
            for view, value in zip(views(), kept, strict=True):
                view.copy_(value)

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(put_back)
