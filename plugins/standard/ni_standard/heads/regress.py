"""The head for real-valued targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ni_framework.contracts import Head


class Regress(Head):
    """LayerNorm and a linear map on the final state of each task's own CLS element: [B, V, D] -> {task: [B, outputs]}.

    The number of a task in the data's `tasks` is its number of outputs; a target is [B] or [B, outputs]. The loss is the squared
    error, mean over outputs. The metric `one_minus_mse` is 1 - loss, whose mean over samples is 1 - MSE. For standardised
    targets (zero mean, unit variance), such as those of `formulas`, this is close to R^2; for other targets it is not.
    """

    def __init__(self, config: object, width: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.cls = nn.Parameter(torch.empty(len(tasks), width))
        self.maps = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size)) for size in tasks.values())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.cls)

    def cls_tokens(self, tasks: Sequence[str]) -> tuple[Tensor, int]:
        return self.cls[[self.tasks.index(task) for task in tasks]], 1

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> dict[str, Tensor]:
        return {task: self.maps[self.tasks.index(task)](x_BVD[:, place]) for place, task in enumerate(tasks)}

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return (logits - target.view(len(logits), -1)).square().mean(dim=1)

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        loss = self.loss(logits, target)
        return {"loss": loss, "one_minus_mse": 1 - loss}
