"""The golden batch: a few inputs and what the model made of them, so that loading can prove that it still does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.evaluation.evaluate import evaluating
from ni_framework.model.interpreter import Interpreter
from ni_framework.nn.init import seed_of
from ni_framework.nn.random import keys, uniform
from ni_framework.registry.attribution import blamed

SAMPLES = 2
TOLERANCE = 1e-4  # of the largest output: other processors and thread counts round otherwise


def golden_batch(model: Interpreter) -> dict[str, Tensor]:
    """Inputs [2, *shape] in [0, 1), which are a function of their shape alone, and the logits of each task."""
    inputs = uniform(keys(seed_of("golden"), torch.arange(SAMPLES)), *model.input.shape)
    return {"inputs": inputs} | {f"logits/{task}": logits for task, logits in _logits(model, inputs).items()}


@blamed()
def golden_difference(model: Interpreter, stored: Mapping[str, Tensor]) -> list[str]:
    """Which tasks' logits on the stored inputs are others now, in words; empty if none is.

    `stored` holds what `golden_batch` returned: inputs [2, *shape] and logits [2, classes] of each task.
    """
    found = _logits(model, stored["inputs"])
    differences = []
    for task in sorted(found.keys() | {key.removeprefix("logits/") for key in stored if key != "inputs"}):
        before, now = stored.get(f"logits/{task}"), found.get(task)
        if before is None or now is None or before.shape != now.shape:
            differences.append(f"golden batch, {task}: the model answers other tasks or classes")
        elif not torch.allclose(now, before, rtol=0, atol=TOLERANCE * before.abs().max().item(), equal_nan=True):
            worst, largest = (now - before).abs().max().item(), before.abs().max().item()
            differences.append(
                f"golden batch, {task}: outputs differ by up to {worst:.3g}, the largest of them was {largest:.3g}"
            )
    return differences


def _logits(model: Interpreter, inputs: Tensor) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    key_B = keys(0, torch.arange(len(inputs))).to(device)
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return {task: logits.float().cpu() for task, logits in model(inputs.to(device), key=key_B).items()}
