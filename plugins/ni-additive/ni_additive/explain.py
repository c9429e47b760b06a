"""The contributions of the elements to the logits of a trained model on held-out samples."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor

from ni_additive.head import Additive
from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.errors import UsageError
from ni_framework.model.compose import build_data
from ni_framework.model.interpreter import validate_tasks
from ni_framework.model.trace import trace


class Explanation(NamedTuple):
    """Samples, their classes, and the contribution of each element to the predicted class."""

    image: Tensor  # [B, channels, rows, columns]
    true_B: Tensor
    predicted_B: Tensor
    contribution: Tensor  # [B, rows, columns] of the grid of elements
    intercept_B: Tensor  # The intercept of the predicted class


def explain_samples(run: str | os.PathLike[str], samples: int, task: str | None) -> Explanation:
    """Explains the first held-out samples of each class in turn.

    Args:
        run: A run folder or a checkpoint.
        samples: The number of samples; fewer if the test split is smaller.
        task: The task to explain; None takes the first task of the model.

    Raises:
        UsageError: The model has no head `additive`, or its elements are not patches of an image.
    """
    model, recipe = load_checkpoint(run)
    head, grid, shape = model.head, model.input.grid, model.input.shape
    if not isinstance(head, Additive):
        raise UsageError(f"{run}: its head is `{recipe.model.head.use}`; only the head `additive` has contributions")
    if grid is None or len(shape) != 3:
        raise UsageError(f"{run}: its input is `{recipe.model.input.use}`, whose elements are not patches of an image")
    (task,) = validate_tasks(None if task is None else [task], model.tasks)[:1]
    split = build_data(recipe).open()["test"]
    target_B = split.batch(torch.arange(len(split)), None).targets[task]
    batch = split.batch(_round_robin_by_class(target_B)[:samples], None)
    model_trace = trace(model, batch.inputs, batch.mask, [task])
    # The elements are those of the input, because this head has no CLS elements.
    present_BV = batch.mask
    predicted_B = model_trace.logits[task].argmax(dim=-1)
    with torch.no_grad():
        contribution = head.contributions(model_trace.outputs[-1], present_BV, [task])[task]
        predicted_contribution_BN = contribution.gather(
            2, predicted_B[:, None, None].expand(-1, contribution.shape[1], 1)
        ).squeeze(2)
        intercept_B = head.sum_for_task(task).intercept[predicted_B]
    return Explanation(
        batch.inputs, batch.targets[task], predicted_B, predicted_contribution_BN.unflatten(1, grid), intercept_B
    )


def _round_robin_by_class(class_B: Tensor) -> Tensor:
    """Returns the indices of the first sample of each class, then of the second one, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for number in class_B.tolist():
        turns.append(seen.get(number, 0))
        seen[number] = turns[-1] + 1
    order = sorted(range(len(turns)), key=lambda index: (turns[index], int(class_B[index]), index))
    return torch.tensor(order, dtype=torch.int64)
