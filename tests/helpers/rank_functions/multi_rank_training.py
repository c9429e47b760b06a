"""Functions for tests in which the ranks differ; each function is called on all ranks."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from ni_framework import build_model
from ni_framework.contracts import Batch, Split, hookimpl
from ni_framework.data.sampler import EpochSampler
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.errors import NIError
from ni_framework.evaluation.evaluate import evaluate_model
from ni_framework.model.compose import build_data
from ni_framework.training.train import train
from tests.helpers.small_recipe import load_small_recipe

RANK = int(os.environ.get("RANK", "0"))


def train_with_differences(run: str, overrides: list[str], environment: dict[str, str]) -> list[Any]:
    """Trains while rank 1 has other settings; returns the error, its exit code, and whether there are metrics.

    Args:
        run: The run folder.
        overrides: Changes of the recipe on rank 1.
        environment: Environment variables on rank 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_small_recipe(Path(folder), "engine.use=zero", "train.steps=2", *(overrides if RANK else []))
    with mock.patch.dict(os.environ, environment if RANK else {}):
        try:
            train(recipe, Path(run))
        except NIError as error:
            return [str(error), error.exit_code, (Path(run) / "metrics.jsonl").exists()]
    return ["nothing", 0, True]


class StepWarningCollector:
    def __init__(self) -> None:
        self.messages: list[tuple[int, str]] = []

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.messages.append((step, message))


def train_with_delays(run: str, stage: int, seconds: Sequence[float]) -> list[Any]:
    """Trains while each rank takes its own time for the data of a step; returns the run's warnings.

    Args:
        run: The run folder.
        stage: The ZeRO stage.
        seconds: The delay of each rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_small_recipe(Path(folder), "engine.use=zero", f"engine.stage={stage}", "train.steps=40")
    read, collector = EpochSampler.__getitem__, StepWarningCollector()

    def read_late(sampler: EpochSampler, step: int) -> Any:
        time.sleep(seconds[RANK])
        return read(sampler, step)

    with mock.patch.object(EpochSampler, "__getitem__", read_late):
        train(recipe, Path(run), listeners=[collector])
    return [list(entry) for entry in collector.messages]


class FirstSamples:
    """The first samples of a split."""

    def __init__(self, split: Split, number: int) -> None:
        self.split, self.number = split, number

    def __len__(self) -> int:
        return self.number

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return self.split.batch(index_B, key_B)


def evaluate_together_and_alone(number: int) -> list[dict[str, float]]:
    """Returns the metrics of a few samples, computed by all ranks together and by this rank alone."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_small_recipe(Path(folder), "engine.use=zero")
    comm, model = init_process_group(recipe.engine), build_model(recipe)
    samples = FirstSamples(build_data(recipe).open()["test"], number)
    return [evaluate_model(model, samples, comm=comm), evaluate_model(model, samples)]
