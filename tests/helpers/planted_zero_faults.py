"""Components that work in one process, but fail in two."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.contracts import Pairs
from tests.helpers.planted_faults import plant_fault
from tests.helpers.sound_components import CodeShift, LinearHead, NumberInput


@plant_fault("zero_parity", "at stage 2 in two processes, value `loss` differs by")
class RankDependentBody(CodeShift):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        return super().forward(x_BVD, prepared, pairs) * (1 + 0.1 * int(os.environ.get("RANK", "0")))


@dataclass
class TensorHolder:
    x: Tensor


class HidesTensorFromZero(nn.Module):
    """Returns an object in which DeepSpeed finds no tensors, so that weights are not gathered for backward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, width), nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> TensorHolder:
        return TensorHolder(self.second(torch.tanh(self.first(inputs))) * self.second.bias)


@plant_fault("zero_parity", "in two processes, raises RuntimeError: The size of tensor a (12) must match")
class OpaqueInput(NumberInput):
    def __init__(self, config: Any, width: int) -> None:
        super().__init__(config, width)
        self.deep = HidesTensorFromZero(width)
        del self.linear

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        inputs = inputs if mask_BN is None else torch.where(mask_BN, inputs, 0)
        return self.deep(inputs.unsqueeze(-1)).x


@plant_fault("zero_parity", "in two processes, raises IndexError: index 1 is out of bounds for dimension 0 with size 0")
class LossWithParameter(LinearHead):
    """Uses a weight in its loss, where weights are not gathered at stage 3."""

    def __init__(self, config: Any, width: int, tasks: Any) -> None:
        super().__init__(config, width, tasks)
        self.temperature = nn.Parameter(torch.empty(2))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "temperature"):
            nn.init.ones_(self.temperature)

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Any) -> dict[str, Tensor]:
        logits_by_task = super().forward(x_BVD, present_BV, tasks)
        return {task: logits * self.temperature.sum() for task, logits in logits_by_task.items()}

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().loss(logits, target) * self.temperature[1]
