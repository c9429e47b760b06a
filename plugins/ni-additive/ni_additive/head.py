"""The head whose logits are sums over elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Head
from ni_framework.options import config, option


class Additive(Head):
    """logits = b + W sum_i phi(x_i), the sum over the input's elements: [B, N, D] -> {task: [B, classes]}.

    `contributions` returns what each element adds to each logit, W phi(x_i), exactly. phi is a LayerNorm and an MLP, each task
    has its own phi, W and b, and there are no CLS elements. W and b have mean 0 over the classes, because a value that is added
    to all logits does not change the softmax and so is not evidence for any class. Source: Nguyen and Martínez, "It's FLAN time!
    Summing feature-wise latent representations for interpretability", arXiv 2106.10086. Their network rho is replaced by a
    linear map, because contributions would not add up otherwise. The model is a FLAN only if the elements have not influenced
    each other: see the body `apart`.
    """

    api = 2

    @config
    class Config:
        depth: int = option(default=1, ge=1, help="layers of phi, each a linear map and a GELU")
        latent: int | None = option(default=None, ge=1, help="width of phi(x_i); null takes the width of an element")
        label_smoothing: float = option(
            default=0.0, ge=0, lt=1, help="part of the target that is spread evenly over the classes in training"
        )

    def __init__(self, config: Config, width: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.label_smoothing, self.width = config.label_smoothing, width
        self.tasks = tuple(tasks)
        self.sums = nn.ModuleList(
            SumOfElements(width, config.latent or width, config.depth, classes) for classes in tasks.values()
        )

    def cls_tokens(self, tasks: Sequence[str]) -> tuple[Tensor, int]:
        return next(self.parameters()).new_zeros(0, self.width), 1

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> dict[str, Tensor]:
        return {task: self.sum_for_task(task)(x_BVD, present_BV) for task in tasks}

    def contributions(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Returns what each element adds to each logit; the sum over elements is the logits minus the intercept.

        Args:
            x_BVD: The final states of the elements.
            present_BV: False where an element is masked; None if no element is.
            tasks: The requested tasks.

        Returns:
            {task: [B, N, classes]}.
        """
        return {task: self.sum_for_task(task).contributions(x_BVD, present_BV) for task in tasks}

    def sum_for_task(self, task: str) -> SumOfElements:
        """Returns the module that computes the logits of a task."""
        module = self.sums[self.tasks.index(task)]
        assert isinstance(module, SumOfElements)
        return module

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {
            "loss": F.cross_entropy(logits, target, reduction="none"),
            "accuracy": (logits.argmax(dim=-1) == target).float(),
        }


class SumOfElements(nn.Module):
    """b + W sum_i phi(x_i), with W and b centred over the classes: [B, N, D] -> [B, classes]. `P` is the width of phi(x_i)."""

    def __init__(self, width: int, latent: int, depth: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        for number in range(depth):
            layers += [nn.Linear(latent if number else width, latent), nn.GELU()]
        self.phi = nn.Sequential(*layers)
        self.rho = nn.Linear(latent, classes)

    @property
    def intercept(self) -> Tensor:
        """The logits [classes] without any element."""
        return self.rho.bias - self.rho.bias.mean()

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None) -> Tensor:
        return F.linear(self._latent(x_BVD, present_BV).sum(dim=1), self._weight(), self.intercept)

    def contributions(self, x_BVD: Tensor, present_BV: Tensor | None) -> Tensor:
        """Returns W phi(x_i), [B, N, classes]; 0 where an element is masked."""
        return F.linear(self._latent(x_BVD, present_BV), self._weight())

    def _weight(self) -> Tensor:
        return self.rho.weight - self.rho.weight.mean(dim=0)

    def _latent(self, x_BVD: Tensor, present_BV: Tensor | None) -> Tensor:
        """Returns phi(x_i), [B, N, P]; 0 where an element is masked."""
        if present_BV is None:
            return self.phi(x_BVD)
        present_BV1 = present_BV.unsqueeze(-1)
        # Twice: a masked element may be NaN, and the outer `where` alone would not keep NaN out of the gradient.
        return torch.where(present_BV1, self.phi(torch.where(present_BV1, x_BVD, 0)), 0)
