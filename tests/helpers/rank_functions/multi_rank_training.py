"""Runs in which the processes are not alike."""

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
from ni_framework.data.sampler import Order
from ni_framework.distributed.rendezvous import join
from ni_framework.errors import NIError
from ni_framework.evaluation.evaluate import evaluate
from ni_framework.model.compose import build_data
from ni_framework.training.train import train
from tests.helpers.small_recipe import small_recipe

RANK = int(os.environ.get("RANK", "0"))


def refused(run: str, overrides: list[str], environment: dict[str, str]) -> list[Any]:
    """What a run says in which process 1 has other settings, and its exit code; and whether a step was made."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), "engine.use=zero", "train.steps=2", *(overrides if RANK else []))
    with mock.patch.dict(os.environ, environment if RANK else {}):
        try:
            train(recipe, Path(run))
        except NIError as error:
            return [str(error), error.exit_code, (Path(run) / "metrics.jsonl").exists()]
    return ["nothing", 0, True]


class Warned:
    def __init__(self) -> None:
        self.messages: list[tuple[int, str]] = []

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.messages.append((step, message))


def paced(run: str, stage: int, seconds: Sequence[float]) -> list[Any]:
    """What a run warns of in which each process needs its time for a step's data."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), "engine.use=zero", f"engine.stage={stage}", "train.steps=40")
    read, warned = Order.__getitem__, Warned()

    def late(order: Order, step: int) -> Any:
        time.sleep(seconds[RANK])
        return read(order, step)

    with mock.patch.object(Order, "__getitem__", late):
        train(recipe, Path(run), listeners=[warned])
    return [list(entry) for entry in warned.messages]


class Few:
    """The first samples of a split."""

    def __init__(self, split: Split, number: int) -> None:
        self.split, self.number = split, number

    def __len__(self) -> int:
        return self.number

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return self.split.batch(index_B, key_B)


def evaluated(number: int) -> list[dict[str, float]]:
    """The metrics of a few samples, by all processes together and by this one alone."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), "engine.use=zero")
    team, model = join(recipe.engine), build_model(recipe)
    few = Few(build_data(recipe).open()["test"], number)
    return [evaluate(model, few, team=team), evaluate(model, few)]
