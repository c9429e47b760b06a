"""The local engine: one process and plain PyTorch. Every other engine is measured against it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ni_framework.checkpoint.load import fill
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.shards import State
from ni_framework.contracts import Batch
from ni_framework.distributed.communicator import ALONE
from ni_framework.engines.base import COUNT, Engine, clipped
from ni_framework.engines.freezing import hold
from ni_framework.engines.optim import MakeOptimizer, adamw, load_state_by_name, state_by_name
from ni_framework.model.interpreter import Forward, Interpreter
from ni_framework.recipe import Recipe


class LocalEngine(Engine):
    """One process alone, with everything in its memory."""

    def __init__(self, model: Interpreter, recipe: Recipe, optimizer: MakeOptimizer = adamw) -> None:
        super().__init__(model, recipe, ALONE)
        self.optimizer = optimizer(model, recipe.train.optimizer)
        if self.held:
            hold(self.optimizer, self._held_views)
        factor = recipe.train.average
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(factor)) if factor else None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def close(self) -> None:
        """Nothing outlives it."""

    @contextmanager
    def inference(self) -> Iterator[Interpreter]:
        yield self._average_model or self.model

    def _held_views(self) -> list[Tensor]:
        parameters = dict(self.model.named_parameters())
        return [parameters[name].detach().view(-1)[:number] for name, number in self.held.items()]

    @property
    def _average_model(self) -> Interpreter | None:
        return None if self._averaged is None else cast(Interpreter, self._averaged.module)

    def weights(self) -> State:
        return self.model.state_dict()

    def averages(self) -> State | None:
        return None if self._average_model is None else self._average_model.state_dict()

    def optimizer_state(self) -> State:
        state = {f"optimizer/{name}": value for name, value in state_by_name(self.model, self.optimizer).items()}
        return state if self._averaged is None else state | {COUNT: self._averaged.n_averaged}

    def load_weights(self, weights: Stored, averages: Stored | None, folder: Path) -> None:
        fill(self.model, weights, folder)
        if self._average_model is not None:
            fill(self._average_model, weights if averages is None else averages, folder)

    def load_optimizer_state(self, stored: Stored) -> None:
        load_state_by_name(self.model, self.optimizer, stored.under("optimizer").all())
        if self._averaged is not None:
            self._averaged.n_averaged.copy_(stored.read(COUNT))

    def _forward(self, part: Batch, detail: str) -> Forward:
        with self.autocast():
            return self.model(part.inputs, part.mask, tuple(part.targets), detail=detail, key=part.key)

    def _backward(self, loss: Tensor) -> None:
        (loss if self.scale is None else loss * self.scale.factor).backward()

    def _norm(self) -> Tensor:
        return clipped(self.model, self.train.clip, 1.0 if self.scale is None else self.scale.factor)

    def _take(self) -> None:
        self.optimizer.step()

    def _drop(self) -> None:
        """Nothing is to be done."""

    def _average(self) -> None:
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)
