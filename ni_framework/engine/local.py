"""The local engine: one process and plain PyTorch. Every other engine is measured against it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ni_framework.contracts import Batch
from ni_framework.engine.batches import parts, to, weight_of
from ni_framework.engine.diagnose import Diagnosis, diagnose
from ni_framework.engine.guard import Guard
from ni_framework.engine.optim import adamw, learning_rate, load_state_by_name, state_by_name
from ni_framework.errors import RunError
from ni_framework.model.interpreter import Forward, Interpreter
from ni_framework.recipe import Recipe


class Step(NamedTuple):
    """What one step leaves: its values by name ("loss", "accuracy", auxiliary losses), on the device, and its last part."""

    values: dict[str, Tensor]
    forward: Forward
    batch: Batch
    fault: str | None = None  # why it was skipped


class LocalEngine:
    """Holds the model and the optimizer, and carries out one step at a time."""

    def __init__(self, model: Interpreter, recipe: Recipe) -> None:
        self.model, self.train = model, recipe.train
        self.device = next(model.parameters()).device
        for script in model.scripts:
            script.recompute = recipe.train.recompute
            if recipe.engine.compile:
                check_compiler(self.device)
                script.body.compile()
        self.optimizer = adamw(model, recipe.train.optimizer)
        self.guard = Guard(recipe.train.skip)
        self.updating = False  # between two steps, when weights and optimizer do not belong together
        factor = recipe.train.average
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(factor)) if factor else None

    @property
    def average(self) -> Interpreter | None:
        """The model with averaged weights, a_1 = w_1 and a_t = f a_{t-1} + (1 - f) w_t; None without `train.average`, f."""
        return None if self._averaged is None else cast(Interpreter, self._averaged.module)

    @property
    def inference(self) -> Interpreter:
        """The model to evaluate: the averaged one if there is one."""
        return self.average or self.model

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass; weights and optimizer stay in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bf16")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.train.optimizer.lr * learning_rate(step, self.train.steps, self.train.schedule)

    def training_state(self) -> dict[str, Tensor]:
        """What the next step needs beside the weights; everything random is a function of seed and step."""
        state = {f"optimizer/{name}": value for name, value in state_by_name(self.model, self.optimizer).items()}
        state |= {f"guard/{name}": value for name, value in self.guard.state().items()}
        return state if self._averaged is None else state | {"average/count": self._averaged.n_averaged}

    def load_training_state(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from what `training_state` returned."""
        load_state_by_name(self.model, self.optimizer, under("optimizer", stored))
        self.guard.load_state(under("guard", stored))
        if self._averaged is not None:
            self._averaged.n_averaged.copy_(stored["average/count"])

    def step(self, step: int, batch: Batch, trace: bool) -> Step:
        """One optimizer step on a batch, computed in `train.accumulate` parts whose gradients add up to the batch's.

        Where the guard objects, nothing changes, and the gradients are left for `diagnose`.
        """
        self.model.train()
        self.optimizer.zero_grad()
        batch = to(batch, self.device)
        counts = {task: weight_of(batch, task).sum().clamp_min(1) for task in batch.targets}
        divided = parts(batch, self.train.accumulate)
        values: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for part in divided:
            with self.autocast():
                detail = "trace" if trace else "losses"
                forward = self.model(part.inputs, part.mask, tuple(part.targets), detail=detail, key=part.key)
            losses = {name: loss / len(divided) for name, loss in forward.losses.items()}
            losses["loss"], metrics = self._answers(forward.logits, part, counts)
            of_part = torch.stack(list(losses.values())).sum()
            of_part.backward()
            total = total + of_part.detach()
            _add(values, metrics | losses)
            _add(statistics, forward.statistics)
        fault = self.guard.fault(*torch.stack([total, self._clipped()]).tolist())
        if fault is None:
            self._update(step, statistics)
        return Step(values, forward, part, fault)  # pyright: ignore[reportPossiblyUnboundVariable]  a batch has a part

    def diagnose(self, batch: Batch) -> Diagnosis:
        """What went wrong in the step on this batch that was skipped just now."""
        self.model.train()
        return diagnose(self.model, parts(to(batch, self.device), self.train.accumulate), self.autocast())

    def _clipped(self) -> Tensor:
        """The norm of the gradient, before it is clipped."""
        if self.train.clip is not None:
            return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train.clip)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _update(self, step: int, statistics: Mapping[str, Tensor]) -> None:
        self.updating = True
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        self.model.absorb(statistics)
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)
        self.updating = False

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


def check_compiler(device: torch.device) -> None:
    """Raises `RunError` where torch.compile would fail for want of a C++ compiler, with which it makes code for the CPU."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if device.type == "cpu" and not any(map(shutil.which, names)):
        raise RunError(
            f"engine.compile: torch needs a C++ compiler, and there is no {' or '.join(names)} here; "
            "install one, or set engine.compile=false"
        )


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value.detach()


def under(name: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state under a name, without it."""
    return {key.removeprefix(f"{name}/"): value for key, value in stored.items() if key.startswith(f"{name}/")}
