"""Functions for tests in which one rank fails or sees other files; each function is called on all ranks."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from ni_framework.checkpoint import load
from ni_framework.data.sampler import EpochSampler
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.model.compose import build_data
from ni_framework.training import train as trainer
from ni_framework.training.train import train
from tests.helpers.small_recipe import load_small_recipe


def fail_on_one_rank() -> tuple[str, float]:
    """Makes rank 1 alone fail while the EMA weights are in the model; returns each rank's error, and after how many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_small_recipe(Path(folder), "engine.use=zero", "engine.stage=2", "train.ema_decay=0.9")
    comm = init_process_group(recipe.engine)
    engine = ZeroEngine(recipe, comm)
    engine.step(0, EpochSampler(build_data(recipe).open()["train"], 8, 0, comm.local_range(8))[0], False)
    start, message = time.monotonic(), ""
    try:
        with engine.inference():
            if comm.rank == 1:
                raise OSError("a disk is gone")
            # Rank 0 is still computing its batch, until it notices the failure.
            time.sleep(3)
            raise OSError("lost the other")
    except OSError as error:
        message = str(error)
    return message, time.monotonic() - start


def init_from_rank_dependent_checkpoint(folder: str) -> str:
    """Starts a run from a checkpoint while each rank would find a different one; returns the step of the one that is used."""
    with tempfile.TemporaryDirectory() as own:
        recipe = load_small_recipe(Path(own), "engine.use=zero", "engine.stage=2", "train.steps=2")
    comm = init_process_group(recipe.engine)
    train(recipe, Path(folder, "first"), checkpoint_every=1)
    used: list[Path] = []

    def record(engine: ZeroEngine, checkpoint: Path) -> list[str]:
        used.append(checkpoint)
        return load.init_from_checkpoint(engine, checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        checkpoints = Path(folder, "first", "checkpoints")
        patch.setattr(trainer, "find_checkpoint", lambda _: checkpoints / f"step-{2 - comm.rank}")
        patch.setattr(trainer, "init_from_checkpoint", record)
        train(recipe, Path(folder, "second"), init_from="first")
    return used[0].name.removeprefix("step-")
