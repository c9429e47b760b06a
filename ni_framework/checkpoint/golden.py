"""The golden batch: a few inputs and the model's outputs for them, so that loading can check the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ni_framework.evaluation.evaluate import eval_mode
from ni_framework.model.interpreter import Interpreter
from ni_framework.nn.init import derive_seed
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.registry.attribution import attribute_errors

GOLDEN_SAMPLES = 2
# Relative to the largest output: other processors and other numbers of threads round differently.
GOLDEN_TOLERANCE = 1e-4


def make_golden_batch(model: Interpreter) -> dict[str, Tensor]:
    """Returns inputs [2, *shape] in [0, 1), which depend on their shape alone, and the logits of each task."""
    inputs = uniform(rng_keys(derive_seed("golden"), torch.arange(GOLDEN_SAMPLES)), *model.input.shape)
    return {"inputs": inputs} | {f"logits/{task}": logits for task, logits in _logits(model, inputs).items()}


@attribute_errors()
def compare_golden(model: Interpreter, recorded: Mapping[str, Tensor]) -> list[str]:
    """Returns one message for each task whose logits on the recorded inputs have changed; an empty list if none has.

    `recorded` is what `make_golden_batch` returned: inputs [2, *shape], and logits [2, classes] of each task.
    """
    current_logits = _logits(model, recorded["inputs"])
    differences = []
    for task in sorted(current_logits.keys() | {key.removeprefix("logits/") for key in recorded if key != "inputs"}):
        before, now = recorded.get(f"logits/{task}"), current_logits.get(task)
        if before is None or now is None or before.shape != now.shape:
            differences.append(f"golden batch, {task}: the model has other tasks or classes")
        elif not torch.allclose(now, before, rtol=0, atol=GOLDEN_TOLERANCE * before.abs().max().item(), equal_nan=True):
            worst, largest = (now - before).abs().max().item(), before.abs().max().item()
            differences.append(
                f"golden batch, {task}: outputs differ by up to {worst:.3g}, the largest of them was {largest:.3g}"
            )
    return differences


def _logits(model: Interpreter, inputs: Tensor) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    key_B = rng_keys(0, torch.arange(len(inputs))).to(device)
    with eval_mode(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return {task: logits.float().cpu() for task, logits in model(inputs.to(device), key=key_B).items()}
