"""The local engine: one process and plain PyTorch. Every other engine is measured against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ni_framework.contracts import Batch
from ni_framework.engine.batches import parts, to, weight_of
from ni_framework.engine.optim import adamw, learning_rate, load_state_by_name, state_by_name
from ni_framework.model.interpreter import Forward, Interpreter
from ni_framework.recipe import Recipe


class Step(NamedTuple):
    """What one step leaves: its values by name ("loss", "accuracy", auxiliary losses), on the device, and its last part."""

    values: dict[str, Tensor]
    forward: Forward
    batch: Batch


class LocalEngine:
    """Holds the model and the optimizer, and carries out one step at a time."""

    def __init__(self, model: Interpreter, recipe: Recipe) -> None:
        self.model, self.train = model, recipe.train
        self.device = next(model.parameters()).device
        self.optimizer = adamw(model, recipe.train.optimizer)

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass; weights and optimizer stay in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bf16")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.train.optimizer.lr * learning_rate(step, self.train.steps, self.train.schedule)

    def training_state(self) -> dict[str, Tensor]:
        """What the next step needs beside the weights; everything random is a function of seed and step."""
        return state_by_name(self.model, self.optimizer)

    def load_training_state(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from what `training_state` returned."""
        load_state_by_name(self.model, self.optimizer, stored)

    def step(self, step: int, batch: Batch, trace: bool) -> Step:
        """One optimizer step on a batch, computed in `train.accumulate` parts whose gradients add up to the batch's."""
        self.model.train()
        self.optimizer.zero_grad()
        batch = to(batch, self.device)
        counts = {task: weight_of(batch, task).sum().clamp_min(1) for task in batch.targets}
        divided = parts(batch, self.train.accumulate)
        values: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        for part in divided:
            with self.autocast():
                detail = "trace" if trace else "losses"
                forward = self.model(part.inputs, part.mask, tuple(part.targets), detail=detail, key=part.key)
            losses = {name: loss / len(divided) for name, loss in forward.losses.items()}
            losses["loss"], metrics = self._answers(forward.logits, part, counts)
            torch.stack(list(losses.values())).sum().backward()
            _add(values, metrics | losses)
            _add(statistics, forward.statistics)
        if self.train.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        self.model.absorb(statistics)
        return Step(values, forward, part)  # pyright: ignore[reportPossiblyUnboundVariable]  a batch has a part

    def _answers(
        self, logits: dict[str, Tensor], part: Batch, counts: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The part's share of the batch's loss, mean over samples and tasks, and of its metrics likewise."""
        losses: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for task, target in part.targets.items():
            share = weight_of(part, task) / (counts[task] * len(part.targets))
            answer = logits[task].float()
            losses.append((self.model.head.loss(answer, target) * share).sum())
            for name, value in self.model.head.metrics(answer.detach(), target).items():
                metrics[name] = metrics.get(name, 0) + (value * share).sum()
        return torch.stack(losses).sum(), metrics


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value.detach()
