"""The local engine: one process and plain PyTorch. Every other engine must compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ni_framework.checkpoint.load import load_into
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.shards import ShardedState
from ni_framework.contracts import Batch
from ni_framework.distributed.communicator import SINGLE_PROCESS
from ni_framework.engines.base import EMA_COUNT_KEY, Engine, clip_gradients
from ni_framework.engines.freezing import restore_frozen_after_step
from ni_framework.engines.optim import OptimizerFactory, build_adamw, load_state_by_name, state_by_name
from ni_framework.model.interpreter import Interpreter, ModelOutput
from ni_framework.recipe import Recipe


class LocalEngine(Engine):
    """Trains in a single process, which holds the whole model and the whole optimizer state."""

    def __init__(self, model: Interpreter, recipe: Recipe, optimizer: OptimizerFactory = build_adamw) -> None:
        super().__init__(model, recipe, SINGLE_PROCESS)
        self.optimizer = optimizer(model, recipe.train.optimizer)
        if self.frozen_prefix_sizes:
            restore_frozen_after_step(self.optimizer, self._frozen_views)
        decay = recipe.train.ema_decay
        self._ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def close(self) -> None:
        """Does nothing: nothing outlives this engine."""

    @contextmanager
    def inference(self) -> Iterator[Interpreter]:
        yield self._ema_model or self.model

    def _frozen_views(self) -> list[Tensor]:
        """Returns the frozen elements, the first ones of their parameters, as views."""
        parameters = dict(self.model.named_parameters())
        return [parameters[name].detach().view(-1)[:size] for name, size in self.frozen_prefix_sizes.items()]

    @property
    def _ema_model(self) -> Interpreter | None:
        return None if self._ema is None else cast(Interpreter, self._ema.module)

    def weights(self) -> ShardedState:
        return self.model.state_dict()

    def ema_weights(self) -> ShardedState | None:
        return None if self._ema_model is None else self._ema_model.state_dict()

    def optimizer_state(self) -> ShardedState:
        state = {f"optimizer/{name}": value for name, value in state_by_name(self.model, self.optimizer).items()}
        return state if self._ema is None else state | {EMA_COUNT_KEY: self._ema.n_averaged}

    def load_weights(self, weights: TensorReader, ema_weights: TensorReader | None, folder: Path) -> None:
        load_into(self.model, weights, folder)
        if self._ema_model is not None:
            load_into(self._ema_model, weights if ema_weights is None else ema_weights, folder)

    def load_optimizer_state(self, stored: TensorReader) -> None:
        load_state_by_name(self.model, self.optimizer, stored.with_prefix("optimizer").read_all())
        if self._ema is not None:
            self._ema.n_averaged.copy_(stored.read(EMA_COUNT_KEY))

    def _forward(self, micro_batch: Batch, detail: str) -> ModelOutput:
        with self.autocast():
            return self.model(
                micro_batch.inputs, micro_batch.mask, tuple(micro_batch.targets), detail=detail, key=micro_batch.key
            )

    def _backward(self, loss: Tensor) -> None:
        (loss if self.grad_scaler is None else loss * self.grad_scaler.scale).backward()

    def _grad_norm(self) -> Tensor:
        return clip_gradients(
            self.model, self.train_config.max_grad_norm, 1.0 if self.grad_scaler is None else self.grad_scaler.scale
        )

    def _optimizer_step(self) -> None:
        self.optimizer.step()

    def _skip_step(self) -> None:
        """Does nothing: the next step clears the gradients."""

    def _update_ema(self) -> None:
        if self._ema is not None:
            self._ema.update_parameters(self.model)
