"""What processes do where one of them fails in the middle; each function is called in all of them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from ni_framework.checkpoint import load
from ni_framework.data.sampler import Order
from ni_framework.distributed.rendezvous import join
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.model.compose import build_data
from ni_framework.training import train as trainer
from ni_framework.training.train import train
from tests.helpers.small_recipe import small_recipe


def evaluation_fails() -> tuple[str, float]:
    """The error of a process that alone fails while averaged weights are in place, and after how many seconds it comes."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), "engine.use=zero", "engine.stage=2", "train.average=0.9")
    team = join(recipe.engine)
    engine = ZeroEngine(recipe, team)
    engine.step(0, Order(build_data(recipe).open()["train"], 8, 0, team.share(8))[0], False)
    begin, said = time.monotonic(), ""
    try:
        with engine.inference():
            if team.rank == 1:
                raise OSError("a disk is gone")
            time.sleep(3)  # as one that is still at its batch, until it learns of that
            raise OSError("lost the other")
    except OSError as error:
        said = str(error)
    return said, time.monotonic() - begin


def begins(folder: str) -> str:
    """The number of the step whose weights a run begins with, where each process would find that of another one."""
    with tempfile.TemporaryDirectory() as own:
        recipe = small_recipe(Path(own), "engine.use=zero", "engine.stage=2", "train.steps=2")
    team = join(recipe.engine)
    train(recipe, Path(folder, "first"), every=1)
    begun: list[Path] = []

    def note(engine: ZeroEngine, place: Path) -> list[str]:
        begun.append(place)
        return load.begin_with(engine, place)

    with pytest.MonkeyPatch.context() as patch:
        places = Path(folder, "first", "checkpoints")
        patch.setattr(trainer, "find_checkpoint", lambda _: places / f"step-{2 - team.rank}")
        patch.setattr(trainer, "begin_with", note)
        train(recipe, Path(folder, "second"), start="first")
    return begun[0].name.removeprefix("step-")
