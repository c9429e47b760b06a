"""Components that are sound in one process, and go wrong in two."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.contracts import Pairs
from tests.helpers.planted_faults import planted
from tests.helpers.sound_components import Answers, Pieces, Steps


@planted("together", "at stage 2 in two processes, value `loss` differs by")
class Ranked(Steps):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        return super().forward(x_BVD, prepared, pairs) * (1 + 0.1 * int(os.environ.get("RANK", "0")))


@dataclass
class Embedded:
    x: Tensor


class Deep(nn.Module):
    """Answers with an object in which DeepSpeed finds no tensors, so that weights are not here on the way back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, width), nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Embedded:
        return Embedded(self.second(torch.tanh(self.first(inputs))) * self.second.bias)


@planted("together", "in two processes, raises RuntimeError: The size of tensor a (12) must match")
class Wrapped(Pieces):
    def __init__(self, config: Any, width: int) -> None:
        super().__init__(config, width)
        self.deep = Deep(width)
        del self.linear

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        inputs = inputs if mask_BN is None else torch.where(mask_BN, inputs, 0)
        return self.deep(inputs.unsqueeze(-1)).x


@planted("together", "in two processes, raises IndexError: index 1 is out of bounds for dimension 0 with size 0")
class Tempered(Answers):
    """Reads a weight in its loss, where no weight is here at stage 3."""

    def __init__(self, config: Any, width: int, tasks: Any) -> None:
        super().__init__(config, width, tasks)
        self.temperature = nn.Parameter(torch.empty(2))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "temperature"):
            nn.init.ones_(self.temperature)

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Any) -> dict[str, Tensor]:
        answers = super().forward(x_BVD, present_BV, tasks)
        return {task: answer * self.temperature.sum() for task, answer in answers.items()}

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target) * self.temperature[1]
