"""A head: turns the final states into logits, and computes the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Head
from ni_framework.options import config, option


class Example(Head):
    """A shared hidden layer and a linear map for each task, on its CLS element: [B, V, D] -> {task: [B, classes]}."""

    api = 2

    @config
    class Config:
        hidden: int = option(default=64, ge=1, help="the width of the hidden layer")

    def __init__(self, config: Config, width: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        # One CLS element for each task, [L, D].
        self.cls = nn.Parameter(torch.empty(len(tasks), width))
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.GELU())
        self.maps = nn.ModuleList(nn.Linear(config.hidden, classes) for classes in tasks.values())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.cls)

    def cls_tokens(self, tasks: Sequence[str]) -> tuple[Tensor, int]:
        return self.cls[[self.tasks.index(task) for task in tasks]], 1

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> dict[str, Tensor]:
        hidden_BLX = self.hidden(x_BVD[:, : len(tasks)])
        return {task: self.maps[self.tasks.index(task)](hidden_BLX[:, index]) for index, task in enumerate(tasks)}

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, reduction="none")

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"loss": self.loss(logits, target), "accuracy": (logits.argmax(dim=-1) == target).float()}
