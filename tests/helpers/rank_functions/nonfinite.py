"""Functions for tests of values that are not finite on one rank; each is called on all ranks, with JSON documents."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ni_framework.checkpoint.shards import local_tensor
from ni_framework.contracts import Batch
from ni_framework.data.sampler import EpochSampler
from ni_framework.engines.base import Engine, StepResult
from ni_framework.engines.step_guard import LOSS_WINDOW
from tests.helpers.rank_functions.resharding import (
    RankWarningCollector,
    after_step,
    current_rank,
    describe_failure,
    train_small,
)


def local_state_tensors(engine: Any) -> list[Tensor]:
    """Returns a copy of this rank's weights, EMA weights and optimizer state."""
    states = [engine.weights(), engine.ema_weights() or {}, engine.optimizer_state()]
    stored = [local_tensor(value) for state in states for value in state.values()]
    # At stage 3 a parameter is gathered and released; this rank's shard of it stays.
    replicas = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.model.parameters()]
    return [tensor.detach().clone().view(-1) for tensor in (*stored, *replicas)]


def bit_identical(first: list[Tensor], second: list[Tensor]) -> bool:
    """Returns whether two lists of tensors are bit-identical."""
    return len(first) == len(second) and all(
        torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in zip(first, second, strict=True)
    )


def train_with_nonfinite_input(run: str, overrides: list[str], places: dict[str, list[int]]) -> dict[str, Any]:
    """Trains; at some steps one element of one rank's input is NaN.

    Args:
        run: The run folder.
        overrides: Changes of the small recipe.
        places: By step, the rank, the sample and the element.

    Returns:
        Whether the state changed at each step, which samples were poisoned, the warnings, and the error.
    """
    changed: dict[int, bool] = {}
    samples: dict[int, int] = {}
    collector = RankWarningCollector()
    step, get_batch = Engine.step, EpochSampler.__getitem__

    def step_and_compare(self: Engine, number: int, batch: Batch, trace: bool) -> StepResult:
        before = local_state_tensors(self)
        result = step(self, number, batch, trace)
        changed[number + 1] = not bit_identical(before, local_state_tensors(self))
        return result

    def get_poisoned_batch(self: EpochSampler, number: int) -> Batch:
        batch = get_batch(self, number)
        rank, sample, element = places.get(str(number + 1), [-1, 0, 0])
        if current_rank() == rank and len(self.local_range) < self.batch_size:
            batch = batch._replace(inputs=batch.inputs.clone())
            batch.inputs[sample].view(-1)[element] = float("nan")
            samples[number + 1] = int(self.sample_indices(self.positions(number))[sample])
        return batch

    with patch.object(Engine, "step", step_and_compare), patch.object(EpochSampler, "__getitem__", get_poisoned_batch):
        failure = describe_failure(lambda: train_small(run, overrides, listener=collector))
    return {"changed": changed, "samples": samples, "warnings": collector.warnings, **failure}


def train_with_nonfinite_weight(run: str, overrides: list[str], rank: int, step: int, name: str) -> dict[str, Any]:
    """Trains; after a step one of the weights that a rank computes with is NaN.

    Args:
        run: The run folder.
        overrides: Changes of the small recipe.
        rank: The rank with the NaN.
        step: The step.
        name: The parameter.
    """
    collector = RankWarningCollector()

    def poison(engine: Any, number: int) -> None:
        if (number, current_rank()) == (step, rank):
            with torch.no_grad():
                dict(engine.model.named_parameters())[name].view(-1)[-1] = float("nan")

    with after_step(poison):
        failure = describe_failure(lambda: train_small(run, overrides, listener=collector))
    return {"warnings": collector.warnings, **failure}


def train_with_nonfinite_gradient(run: str, overrides: list[str], rank: int, step: int, name: str) -> dict[str, Any]:
    """Trains; after a step one of the gradients that a rank computes is NaN.

    Args:
        run: The run folder.
        overrides: Changes of the small recipe.
        rank: The rank with the NaN.
        step: The step.
        name: The parameter.
    """

    def poison(engine: Any, number: int) -> None:
        if (number, current_rank()) == (step, rank):
            dict(engine.model.named_parameters())[name].register_hook(lambda gradient: gradient * float("nan"))

    with after_step(poison):
        return describe_failure(lambda: train_small(run, overrides))


def train_with_loss_spikes(run: str, overrides: list[str], rank: int, factors: dict[str, float]) -> dict[str, Any]:
    """Trains with a guard that has a full window of losses; at some steps one rank's loss is multiplied by a factor.

    Args:
        run: The run folder.
        overrides: Changes of the small recipe.
        rank: The rank with the larger losses.
        factors: The factor of each step.

    Returns:
        The reasons of the steps that this rank has skipped, and the state of its guard after each step.
    """
    skipped: dict[int, str] = {}
    guards: list[list[float]] = []
    loss_and_metrics, step, current = Engine._loss_and_metrics, Engine.step, Counter[str]()

    def step_and_record(self: Engine, number: int, batch: Batch, trace: bool) -> StepResult:
        guard = self.guard
        if not guard.num_losses:
            guard.num_losses, guard.mean, guard.mean_square = LOSS_WINDOW, 2.4, 2.4**2
        current["step"] = number + 1
        result = step(self, number, batch, trace)
        if result.skip_reason:
            skipped[number + 1] = result.skip_reason
        guards.append([guard.num_losses, guard.mean, guard.mean_square, guard.consecutive_skips])
        return result

    def scaled_loss_and_metrics(self: Engine, *arguments: Any) -> Any:
        loss, metrics = loss_and_metrics(self, *arguments)
        factor = factors.get(str(current["step"]), 1.0) if current_rank() == rank else 1.0
        return loss * factor, metrics

    patched_loss = patch.object(Engine, "_loss_and_metrics", scaled_loss_and_metrics)
    with patch.object(Engine, "step", step_and_record), patched_loss:
        train_small(run, overrides)
    return {"skipped": skipped, "guards": guards}
