"""How many operations a recipe asks for: those of its matrix products, a multiply-add counted as two."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe


@frozen
class Operations:
    """Of a forward with every pair of function and element computed; the way back takes twice as many more."""

    image: int  # for each image
    batch: int  # in addition, once for each batch: what depends on the codes alone

    def inference(self, num_images: int) -> int:
        """Of a forward."""
        return self.image * num_images + self.batch


def operations(recipe: Recipe) -> Operations:
    """Counts them on a model without memory; work that equals for several functions counts once, as it is done once."""
    model = build_model(recipe, "meta")
    for script in model.scripts:
        script.set_execution("dense")
    one, two = (counted(model, torch.empty(number, *model.input.shape, device="meta")) for number in (1, 2))
    return Operations(two - one, 2 * one - two)


def counted(model: Interpreter, inputs: Tensor) -> int:
    """The operations that one forward carries out."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops()
