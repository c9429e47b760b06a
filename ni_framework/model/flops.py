"""The FLOPs of a recipe's model: those of its matrix products, with a multiply-add counted as two."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe


@frozen
class FlopCount:
    """FLOPs of a forward pass in which every pair of function and element is computed; the backward pass takes twice as many."""

    per_image: int
    # What depends on the codes alone is computed once for each batch, in addition to the FLOPs of its images.
    per_batch: int

    def forward_flops(self, num_images: int) -> int:
        """Returns the FLOPs of one forward pass."""
        return self.per_image * num_images + self.per_batch


def count_flops(recipe: Recipe) -> FlopCount:
    """Counts the FLOPs on the meta device. Work that is shared by several functions is done once, and counts once."""
    model = build_model(recipe, "meta")
    for script in model.scripts:
        script.set_execution("dense")
    one, two = (count_forward_flops(model, torch.empty(number, *model.input.shape, device="meta")) for number in (1, 2))
    return FlopCount(two - one, 2 * one - two)


def count_forward_flops(model: Interpreter, inputs: Tensor) -> int:
    """Counts the FLOPs of one forward pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops()
