"""What every engine does alike: a step is a batch in parts, judged before it is taken."""

from __future__ import annotations

import math
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.shards import State
from ni_framework.contracts import Batch
from ni_framework.data.batch import parts, to, weight_of
from ni_framework.distributed.communicator import Team
from ni_framework.engines.freezing import freeze
from ni_framework.engines.grad_scaler import LossScale
from ni_framework.engines.lr_schedule import learning_rate
from ni_framework.engines.nonfinite import Diagnosis, diagnose
from ni_framework.engines.step_guard import Guard
from ni_framework.errors import RecipeError, RunError
from ni_framework.model.freezing import held_by
from ni_framework.model.interpreter import Forward, Interpreter
from ni_framework.nn.init import seed_of
from ni_framework.nn.random import keys, uniform
from ni_framework.recipe import Recipe

COUNT = "average/count"  # how often weights were taken into the averages
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Step(NamedTuple):
    """What one step leaves: its values by name ("loss", "accuracy", auxiliary losses), on the device, and its last part."""

    values: dict[str, Tensor]
    forward: Forward
    batch: Batch
    fault: str | None = None  # why it was skipped


class Engine(ABC):
    """Holds the model and the optimizer, and carries out one step at a time, together with the other processes of a team."""

    def __init__(self, model: Interpreter, recipe: Recipe, team: Team) -> None:
        self.model, self.train, self.team = model, recipe.train, team
        self.parts = parts_of(recipe, team.size)
        for script in model.scripts:
            script.recompute = recipe.train.recompute
            if recipe.engine.compile:
                check_compiler(self.device)
                for body in (script.body, *script.bodies):
                    body.compile()
        check_precision(recipe, self.device)
        self.seed, self.held = recipe.seed, held_by(recipe)
        freeze(model, self.held)
        self._parameters = dict(model.named_parameters())  # those that the optimizer will know
        self.guard = Guard(recipe.train.skip)
        self.scale = LossScale() if recipe.train.precision == "fp16" else None
        self._bad_gradient: str | None = None  # the first parameter whose gradient was not finite in a step left out
        self.updating = False  # between two steps, when weights and optimizer do not belong together

    optimizer: Any  # torch's, or one that stands for it
    _cache = True  # whether autocast keeps what it has cast

    @property
    def num_parameters(self) -> int:
        """How many numbers the model holds; of one that DeepSpeed has divided, all processes' together."""
        return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in self.model.parameters())

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where this process computes."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what would outlive the engine."""

    @abstractmethod
    def inference(self) -> AbstractContextManager[Interpreter]:
        """The model to evaluate: with averaged weights if there are any, a_1 = w_1 and a_t = f a_{t-1} + (1 - f) w_t."""

    @abstractmethod
    def weights(self) -> State:
        """The weights and buffers that this process is to store, by name."""

    @abstractmethod
    def averages(self) -> State | None:
        """The same of the averaged weights; None without `train.average`."""

    @abstractmethod
    def optimizer_state(self) -> State:
        """What the optimizer remembers and this process is to store, by "optimizer/<kind>/<parameter>", and `COUNT`."""

    @abstractmethod
    def load_weights(self, weights: Stored, averages: Stored | None, folder: Path) -> None:
        """Takes over weights and averages that any number of processes stored.

        Raises `CheckpointError` if they do not fit.
        """

    @abstractmethod
    def load_optimizer_state(self, stored: Stored) -> None:
        """Takes over what the optimizer remembered; raises `CheckpointError` if it does not fit."""

    @abstractmethod
    def _forward(self, part: Batch, detail: str) -> Forward:
        """A forward of a part."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Adds a part's gradients up; they are those of the whole batch once every part of every process is done."""

    @abstractmethod
    def _norm(self) -> Tensor:
        """The norm of the whole batch's gradient, before it is clipped."""

    @abstractmethod
    def _take(self) -> None:
        """Takes the optimizer's step, with a clipped gradient."""

    @abstractmethod
    def _average(self) -> None:
        """Takes the new weights into the averages."""

    @abstractmethod
    def _drop(self) -> None:
        """Leaves it out."""

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass; weights and optimizer stay in fp32."""
        format = FORMATS[self.train.precision]
        return torch.autocast(self.device.type, format, format != torch.float32, self._cache)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.train.optimizer.lr * learning_rate(step, self.train.steps, self.train.schedule)

    def training_state(self) -> State:
        """What the next step needs beside the weights; everything random is a function of seed and step."""
        state = dict(self.optimizer_state())
        if self.team.leads:
            state |= {f"guard/{name}": value for name, value in self.guard.state().items()}
            if self.scale is not None:
                state["scale/values"] = self.scale.state()
        return state

    def load_training_state(self, stored: Stored) -> None:
        """Goes on from what `training_state` returned in any number of processes."""
        self.load_optimizer_state(stored)
        self.guard.load_state(stored.under("guard").all())
        if self.scale is not None and "scale/values" in stored:
            self.scale.load_state(stored.read("scale/values"))

    def step(self, step: int, batch: Batch, trace: bool) -> Step:
        """One optimizer step on this process's share of a batch, computed in parts whose gradients add up to the batch's.

        Where the guard objects, nothing changes in any process. Raises `RunError` where a parameter has been replaced.
        """
        self._check_parameters(step)
        self.model.train()
        self.optimizer.zero_grad()
        with self._iterations(step):
            return self._step(step, batch, trace)

    def _step(self, step: int, batch: Batch, trace: bool) -> Step:
        batch = to(batch, self.device)
        counts = self.team.sums({task: weight_of(batch, task).sum() for task in batch.targets})
        counts = {task: count.clamp_min(1) for task, count in counts.items()}
        divided = parts(batch, self.parts)
        number = len(divided) * self.team.size
        sums: dict[str, Tensor] = {"total": torch.zeros((), device=self.device)}
        for part in divided:
            forward = self._forward(part, "trace" if trace else "losses")
            losses = {name: loss / number for name, loss in forward.losses.items()}
            losses["loss"], metrics = self._answers(forward.logits, part, counts)
            of_part = torch.stack(list(losses.values())).sum()
            self._backward(of_part)
            told = {f"statistic {name}": value for name, value in forward.statistics.items()}
            told |= {f"value {name}": value for name, value in (metrics | losses).items()}
            for name, value in (told | {"total": of_part}).items():
                sums[name] = sums.get(name, 0) + value.detach()
        sums = self.team.sums(sums)
        total, norm = torch.stack([sums["total"], self._norm().to(self.device)]).tolist()
        fault = None
        # The loss is not scaled: one that is not finite is a fault, which no smaller factor would mend.
        overflow = self.scale is not None and math.isfinite(total) and self.scale.overflows(norm)
        if overflow or (fault := self.guard.fault(total, norm)):
            # Where the loss is not finite, neither are most gradients, and the forward tells more.
            alone = fault is not None and math.isfinite(total) and not math.isfinite(norm)
            self._bad_gradient = self._first_bad_gradient() if alone else None
            self._drop()
        else:
            self.updating = True
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(step)
            self._take()
            self.model.absorb(under("statistic ", sums))
            self._average()
            self.updating = False
        return Step(under("value ", sums), forward, part, fault)  # pyright: ignore[reportPossiblyUnboundVariable]  a batch has a part

    def _check_parameters(self, step: int) -> None:
        now = dict(self.model.named_parameters())
        for name in sorted(now.keys() | self._parameters.keys()):
            if now.get(name) is not self._parameters.get(name):
                raise RunError(
                    f"step {step + 1}: {name} is another parameter than when training was set up, and would never learn; "
                    "change models between runs, as `ni grow` does"
                )

    @contextmanager
    def _iterations(self, step: int) -> Iterator[None]:
        """The model with a step's numbers of iterations, which are alike in all processes."""
        own = self.model.iterations
        if self.train.random_iterations:
            key_S = keys(seed_of("iterations", self.seed, step), torch.arange(len(own)))
            drawn_S = uniform(key_S, 1)[:, 0].tolist()
            self.model.iterations = [1 + int(draw * most) for draw, most in zip(drawn_S, own, strict=True)]
        try:
            yield
        finally:
            self.model.iterations = own

    def diagnose(self, batch: Batch) -> Diagnosis:
        """What went wrong in the step on this batch that was skipped just now, as this process sees it."""
        self.model.train()
        return diagnose(self.model, parts(to(batch, self.device), self.parts), self.autocast(), self._bad_gradient)

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        """The gradients of the whole batch that lie in this process, or pieces of them, by parameter."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                yield name, parameter.grad

    def _first_bad_gradient(self) -> str | None:
        """The first parameter of the model whose gradient is not finite, wherever that lies."""
        found = {name for name, gradient in self._gradients() if not gradient.isfinite().all()}
        found = {name for names in self.team.gather(sorted(found)) for name in names}
        return next((name for name, _ in self.model.named_parameters() if name in found), None)

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


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def clipped(model: nn.Module, clip: float | None, factor: float = 1.0) -> Tensor:
    """The norm of the gradients, once they are divided by `factor` and before they are clipped to the norm `clip`.

    Parameters without a gradient get one of zero: they are decayed like all others, and so are alike in every engine.
    """
    gradients = []
    for parameter in trainable(model):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    if factor != 1:
        for gradient in gradients:
            gradient.div_(factor)
    norm = nn.utils.get_total_norm(gradients)
    if clip is not None:  # by a norm that is not finite all gradients would become so, and which was first be lost
        nn.utils.clip_grads_with_norm_(trainable(model), clip, torch.where(norm.isfinite(), norm, 0))
    return norm


def parts_of(recipe: Recipe, size: int) -> int:
    """In how many parts each of `size` processes computes its share of a batch: all together in at least `train.accumulate`.

    Raises `RecipeError` where that cannot be divided evenly: another number of processes must not mean another batch.
    """
    batch, accumulate = recipe.train.batch, recipe.train.accumulate
    if number := _parts(batch, accumulate, size):
        return number
    path = "train.accumulate" if batch % size == 0 else "train.batch"
    fitting = [str(number) for number in range(1, batch + 1) if _parts(batch, accumulate, number)]
    shown = ", ".join(fitting[:12])
    message = f"{size} processes cannot share a batch of {batch} in {accumulate} parts evenly"
    raise RecipeError([recipe.problem(path, message, f"use another batch, or as many processes as one of {shown}")])


def _parts(batch: int, accumulate: int, size: int) -> int | None:
    """The parts of each process's share, all of them equal; None where there are none such."""
    number = max(accumulate // size, 1)
    return number if (number * size) % accumulate == 0 and batch % (number * size) == 0 else None


def check_precision(recipe: Recipe, device: torch.device) -> None:
    """Raises `RecipeError` for fp16 without a GPU, where it is slower than fp32 and many operations are missing."""
    if recipe.train.precision == "fp16" and device.type != "cuda":
        message = "fp16 needs a GPU, and there is none here"
        raise RecipeError([recipe.problem("train.precision", message, "use bf16 or fp32")])


def check_compiler(device: torch.device) -> None:
    """Raises `RunError` where torch.compile would fail for want of a C++ compiler, with which it makes code for the CPU."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if device.type == "cpu" and not any(map(shutil.which, names)):
        raise RunError(
            f"engine.compile: torch needs a C++ compiler, and there is no {' or '.join(names)} here; "
            "install one, or set engine.compile=false"
        )


def under(prefix: str, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is called by a name with this prefix, by the rest of its name."""
    return {name.removeprefix(prefix): value for name, value in sums.items() if name.startswith(prefix)}
