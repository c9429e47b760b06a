"""What a trained model's elements contributed to its answers on held-out samples."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor

from ni_additive.head import Additive
from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.errors import UsageError
from ni_framework.model.compose import build_data
from ni_framework.model.interpreter import known_tasks
from ni_framework.model.trace import trace


class Explained(NamedTuple):
    """Samples, their classes, and the contributions to the predicted class at the places of the elements."""

    image: Tensor  # [B, channels, rows, columns]
    true_B: Tensor
    predicted_B: Tensor
    contribution: Tensor  # [B, rows, columns] of the grid of elements
    intercept_B: Tensor  # of the predicted class


def explained(run: str | os.PathLike[str], samples: int, task: str | None) -> Explained:
    """The first held-out samples of each class in turn, explained. Raises `UsageError` for a model that has nothing to show."""
    model, recipe = load_checkpoint(run)
    head, grid, shape = model.head, model.input.grid, model.input.shape
    if not isinstance(head, Additive):
        raise UsageError(
            f"{run}: its head is `{recipe.model.head.use}`; contributions are those of the head `additive`"
        )
    if grid is None or len(shape) != 3:
        raise UsageError(
            f"{run}: its input is `{recipe.model.input.use}`, whose elements are no parts of an image; there is nothing to draw"
        )
    (task,) = known_tasks(None if task is None else [task], model.tasks)[:1]
    split = build_data(recipe).open()["test"]
    target_B = split.batch(torch.arange(len(split)), None).targets[task]
    batch = split.batch(_in_turn(target_B)[:samples], None)
    done = trace(model, batch.inputs, batch.mask, [task])
    present_BV = batch.mask  # an additive head has no CLS elements
    predicted_B = done.logits[task].argmax(dim=-1)
    with torch.no_grad():
        contribution = head.contributions(done.outputs[-1], present_BV, [task])[task]
        of_predicted_BN = contribution.gather(
            2, predicted_B[:, None, None].expand(-1, contribution.shape[1], 1)
        ).squeeze(2)
        intercept_B = head.of(task).intercept[predicted_B]
    return Explained(batch.inputs, batch.targets[task], predicted_B, of_predicted_BN.unflatten(1, grid), intercept_B)


def _in_turn(class_B: Tensor) -> Tensor:
    """Indices of the first sample of each class, then of the second, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for number in class_B.tolist():
        turns.append(seen.get(number, 0))
        seen[number] = turns[-1] + 1
    order = sorted(range(len(turns)), key=lambda index: (turns[index], int(class_B[index]), index))
    return torch.tensor(order, dtype=torch.int64)
