"""What processes do in the tests of weights on a disk; each function is called in all of them, with JSON documents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ni_framework.checkpoint.golden import golden_batch
from ni_framework.checkpoint.lockfile import lock_of
from ni_framework.checkpoint.manifest import TRAINING, WEIGHTS, read_manifest
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.checkpoint.shards import Piece, held
from ni_framework.contracts import Batch
from ni_framework.distributed.rendezvous import join
from ni_framework.engines.base import Step
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.model.compose import build_model
from tests.helpers.fake_aio import use_by_hand
from tests.helpers.rank_functions.resharding import run_all
from tests.helpers.small_recipe import small_recipe

KINDS = ("exp_avg", "exp_avg_sq")


@contextmanager
def _on_the_cpu(real: bool) -> Iterator[None]:
    """Lets a disk be used without a GPU, by DeepSpeed's own means or by hand."""
    if not real:
        use_by_hand()
    with patch("ni_framework.engines.deepspeed.engine.check_device", lambda *_: None):
        yield


def run_disk(jobs: list[dict[str, Any]], real: bool = False) -> list[dict[str, Any]]:
    """Carries out jobs as `run_all` does; for each, how much was on the disk after a step, and in memory at a time."""
    answers = []
    for job in jobs:
        watch = Watch(Path(job["run"]))
        with _on_the_cpu(real), watch.watching():
            run_all([job])
        answers.append(watch.found)
    return answers


class Watch:
    """What lies on the disk and what in memory; what is held after each step is written into the run's folder."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.found: dict[str, Any] = {"groups": 0, "parameters": 0, "at once": 0}

    @contextmanager
    def watching(self) -> Iterator[None]:
        from ni_framework.engines.deepspeed import nvme_swap

        step, group_in_memory = ZeroEngine.step, nvme_swap.group_in_memory

        def stepped(engine: ZeroEngine, number: int, batch: Batch, trace: bool) -> Step:
            done = step(engine, number, batch, trace)
            self.look(engine, number + 1)
            return done

        @contextmanager
        def group(optimizer: Any, number: int, changes: bool) -> Iterator[None]:
            with group_in_memory(optimizer, number, changes):
                here = sum(flat.numel() > 0 for flat in _on_disk(optimizer))
                self.found["at once"] = max(self.found["at once"], here)
                yield

        with (
            patch.object(ZeroEngine, "step", stepped),
            patch("ni_framework.engines.deepspeed.sharded_parameters.group_in_memory", group),
        ):
            yield

    def look(self, engine: Any, number: int) -> None:
        groups, optimizer = _on_disk(engine.optimizer), engine.optimizer
        if not groups:
            return
        assert not any(flat.numel() for flat in groups)
        assert not any(
            value.numel() for flat in groups for kind, value in optimizer.optimizer.state[flat].items() if kind in KINDS
        )
        trained = [(n, p) for n, p in engine.model.named_parameters() if p.requires_grad]
        self.found["groups"] = len(groups)
        self.found["parameters"] = sum(p.ds_tensor.status.name == "NOT_AVAILABLE" for _, p in trained)
        # By DeepSpeed's own functions, one parameter at a time.
        own = {
            f"{kind or 'weight'}/{n}": optimizer.get_local_fp32_param(p, kind).clone()
            for n, p in trained
            for kind in (None, *KINDS)
        }
        torch.save(own, self.run / f"held-{number}-{engine.team.rank}")


def _on_disk(optimizer: Any) -> list[Tensor]:
    flats = optimizer.fp32_partitioned_groups_flat
    return [flat for number, flat in enumerate(flats) if optimizer._swappable_optimizer_subgroup(number)]


def frozen_move(folder: str, overrides: list[str], real: bool = False) -> dict[str, Any]:
    """Stores a model of which much is frozen and loads it into one with other values; what is on the disk, and differs."""

    def freeze(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith("scripts.0.body"))

    with _on_the_cpu(real), tempfile.TemporaryDirectory() as place:
        recipe = small_recipe(Path(place), *overrides)
        engine = ZeroEngine(recipe, join(recipe.engine), prepare=freeze)
        team, model = engine.team, build_model(recipe)
        snapshot = Snapshot(
            weights=engine.weights(),
            training=engine.training_state(),
            golden=golden_batch(model),
            recipe=recipe,
            lock=lock_of(recipe, None),
            step=0,
        )
        saved = save_checkpoint(Path(folder), snapshot, team)
        frozen: list[Any] = [p for p in engine.model.parameters() if not p.requires_grad]
        on_disk = sum(p.ds_tensor.status.name == "NOT_AVAILABLE" for p in frozen)
        before = {name: held(value).clone() for name, value in engine.weights().items()}
        engine.close()
        other = ZeroEngine(small_recipe(Path(place), *overrides, "seed=99"), team, prepare=freeze)
        apart = sum(not torch.equal(held(value), before[name]) for name, value in other.weights().items())
        manifest = read_manifest(saved)
        other.load_weights(Stored(saved, manifest, WEIGHTS), None, saved)
        other.load_training_state(Stored(saved, manifest, TRAINING))
        found = other.weights()
        differ = [name for name, value in found.items() if not torch.equal(held(value), before[name])]
        initial = dict(model.named_parameters())
        wrong = [
            name
            for name, value in found.items()
            if isinstance(value, Piece)
            and not torch.equal(value.part_P, initial[name].detach().view(-1)[value.start :][: len(value.part_P)])
        ]
        other.close()
        return {"frozen on disk": on_disk, "apart": apart, "differ": differ, "wrong": wrong}
