"""Workaround: DeepSpeed (0.19.8) cannot send parameters without a dimension.

What DeepSpeed does: at stages 0 to 2 it broadcasts each parameter as a view of its bytes, and at stage 3 it gathers and splits
parameters along their elements. What goes wrong: torch has no view of a scalar's bytes, and a scalar cannot be split. How this
repairs it: at stages 0 to 2 scalars are marked as parameters that are not broadcast, which is correct because every rank
computes the same initial values; at stage 3 they are vectors of one element while DeepSpeed shards them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


def exclude_scalars_from_broadcast(model: nn.Module) -> None:
    """Marks a model's scalars with the attribute by which DeepSpeed recognises parameters that it must not broadcast."""
    for parameter in model.parameters():
        if not parameter.ndim:
            parameter.ds_optim_param = True  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def scalars_as_vectors(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Makes vectors of the scalars among parameters while they are sharded; afterwards each has its own shape again."""
    scalars = [parameter for parameter in parameters if not parameter.ndim]
    for parameter in scalars:
        parameter.data = parameter.data.view(1)
    yield
    for parameter in scalars:
        parameter.ds_shape = torch.Size(())  # pyright: ignore[reportAttributeAccessIssue]
