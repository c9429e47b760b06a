"""Functions for tests of offloading to NVMe; each function is called on all ranks, with JSON documents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ni_framework.checkpoint.golden import make_golden_batch
from ni_framework.checkpoint.lockfile import build_lockfile
from ni_framework.checkpoint.manifest import TRAINING_STATE_FILE, WEIGHTS_FILE, read_manifest
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.checkpoint.shards import TensorShard, local_tensor
from ni_framework.contracts import Batch
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.base import StepResult
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.model.compose import build_model
from tests.helpers.fake_aio import use_fake_aio
from tests.helpers.rank_functions.resharding import run_all
from tests.helpers.small_recipe import load_small_recipe

MOMENT_NAMES = ("exp_avg", "exp_avg_sq")


@contextmanager
def _allow_nvme_on_cpu(real: bool) -> Iterator[None]:
    """Allows offloading to a disk without a GPU, with DeepSpeed's compiled extension (`real`) or a fake one."""
    if not real:
        use_fake_aio()
    with patch("ni_framework.engines.deepspeed.engine.check_device", lambda *_: None):
        yield


def run_jobs_on_nvme(jobs: list[dict[str, Any]], real: bool = False) -> list[dict[str, Any]]:
    """Runs jobs as `run_all` does; returns for each how much was on the disk after a step, and in memory at a time."""
    results = []
    for job in jobs:
        watcher = NvmeWatcher(Path(job["run"]))
        with _allow_nvme_on_cpu(real), watcher.install():
            run_all([job])
        results.append(watcher.counts)
    return results


class NvmeWatcher:
    """Counts what is on the disk and in memory, and writes this rank's state after each step to the run folder."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.counts: dict[str, Any] = {"groups": 0, "parameters": 0, "at once": 0}

    @contextmanager
    def install(self) -> Iterator[None]:
        from ni_framework.engines.deepspeed.nvme_offload import swap

        step, group_in_memory = ZeroEngine.step, swap.group_in_memory

        def step_and_record(engine: ZeroEngine, number: int, batch: Batch, trace: bool) -> StepResult:
            result = step(engine, number, batch, trace)
            self.record(engine, number + 1)
            return result

        @contextmanager
        def group_and_count(optimizer: Any, number: int, changes: bool) -> Iterator[None]:
            with group_in_memory(optimizer, number, changes):
                in_memory = sum(flat.numel() > 0 for flat in _groups_on_disk(optimizer))
                self.counts["at once"] = max(self.counts["at once"], in_memory)
                yield

        with (
            patch.object(ZeroEngine, "step", step_and_record),
            patch("ni_framework.engines.deepspeed.sharded_parameters.group_in_memory", group_and_count),
        ):
            yield

    def record(self, engine: Any, number: int) -> None:
        groups, optimizer = _groups_on_disk(engine.optimizer), engine.optimizer
        if not groups:
            return
        assert not any(flat.numel() for flat in groups)
        assert not any(
            value.numel()
            for flat in groups
            for kind, value in optimizer.optimizer.state[flat].items()
            if kind in MOMENT_NAMES
        )
        trainable = [(n, p) for n, p in engine.model.named_parameters() if p.requires_grad]
        self.counts["groups"] = len(groups)
        self.counts["parameters"] = sum(p.ds_tensor.status.name == "NOT_AVAILABLE" for _, p in trainable)
        # Read by DeepSpeed's own functions, one parameter at a time.
        local_state = {
            f"{kind or 'weight'}/{n}": optimizer.get_local_fp32_param(p, kind).clone()
            for n, p in trainable
            for kind in (None, *MOMENT_NAMES)
        }
        torch.save(local_state, self.run / f"state-{number}-{engine.comm.rank}")


def _groups_on_disk(optimizer: Any) -> list[Tensor]:
    flats = optimizer.fp32_partitioned_groups_flat
    return [flat for number, flat in enumerate(flats) if optimizer._swappable_optimizer_subgroup(number)]


def reload_frozen_model(folder: str, overrides: list[str], real: bool = False) -> dict[str, Any]:
    """Saves a model with many frozen weights, and loads it into a model with other values.

    Args:
        folder: The folder of the checkpoint.
        overrides: Changes of the small recipe.
        real: Whether DeepSpeed's compiled extension is used.

    Returns:
        The number of frozen weights on the disk, how many weights differed before loading, the names of those that differ
        after it, and of those that were not saved with their initial values.
    """

    def freeze(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith("scripts.0.body"))

    with _allow_nvme_on_cpu(real), tempfile.TemporaryDirectory() as recipe_dir:
        recipe = load_small_recipe(Path(recipe_dir), *overrides)
        engine = ZeroEngine(recipe, init_process_group(recipe.engine), prepare=freeze)
        comm, model = engine.comm, build_model(recipe)
        snapshot = Snapshot(
            weights=engine.weights(),
            training_state=engine.training_state(),
            golden=make_golden_batch(model),
            recipe=recipe,
            lockfile=build_lockfile(recipe, None),
            step=0,
        )
        saved = save_checkpoint(Path(folder), snapshot, comm)
        frozen: list[Any] = [p for p in engine.model.parameters() if not p.requires_grad]
        on_disk = sum(p.ds_tensor.status.name == "NOT_AVAILABLE" for p in frozen)
        before = {name: local_tensor(value).clone() for name, value in engine.weights().items()}
        engine.close()
        other = ZeroEngine(load_small_recipe(Path(recipe_dir), *overrides, "seed=99"), comm, prepare=freeze)
        differ_before = sum(
            not torch.equal(local_tensor(value), before[name]) for name, value in other.weights().items()
        )
        manifest = read_manifest(saved)
        other.load_weights(TensorReader(saved, manifest, WEIGHTS_FILE), None, saved)
        other.load_training_state(TensorReader(saved, manifest, TRAINING_STATE_FILE))
        loaded = other.weights()
        differ = [name for name, value in loaded.items() if not torch.equal(local_tensor(value), before[name])]
        initial = dict(model.named_parameters())
        wrong = [
            name
            for name, value in loaded.items()
            if isinstance(value, TensorShard)
            and not torch.equal(value.values_P, initial[name].detach().view(-1)[value.start :][: len(value.values_P)])
        ]
        other.close()
        return {"frozen on disk": on_disk, "differ before": differ_before, "differ": differ, "wrong": wrong}
