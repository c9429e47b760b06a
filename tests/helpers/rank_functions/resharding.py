"""Functions for tests of checkpoints of several ranks; each is called on all ranks, with JSON documents."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from ni_framework.analysis.memory_tracker import MemoryTracker
from ni_framework.checkpoint import load as load_module
from ni_framework.checkpoint import reader, run_dir
from ni_framework.checkpoint import resume as resume_module
from ni_framework.checkpoint import save as save_module
from ni_framework.checkpoint.manifest import check_file
from ni_framework.checkpoint.shards import TensorShard, local_tensor
from ni_framework.contracts import Batch, hookimpl
from ni_framework.engines.base import StepResult
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.errors import NIError
from ni_framework.training import loop
from ni_framework.training.loop import TrainLoop
from ni_framework.training.train import resume, train
from tests.helpers.small_recipe import load_small_recipe


class RankWarningCollector:
    """Collects the warnings of a run."""

    def __init__(self) -> None:
        self.warnings: list[tuple[int, str]] = []

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.warnings.append((step, message))


def rank_and_world_size() -> tuple[int, int]:
    """Returns the rank of this process and the world size."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def current_rank() -> int:
    """Returns the rank of this process."""
    return rank_and_world_size()[0]


def train_small(run: str, overrides: list[str], every: int | None = None, listener: object = None) -> Any:
    """Trains in a run folder.

    Args:
        run: The run folder.
        overrides: Changes of the small recipe.
        every: Steps between two checkpoints.
        listener: A listener of the run.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_small_recipe(Path(folder), *overrides)
    return train(recipe, Path(run), checkpoint_every=every, listeners=[listener] if listener else ())


def run_all(jobs: list[dict[str, Any]]) -> list[Any]:
    """Runs jobs one after the other; returns their summaries.

    A job with a "path" resumes from that checkpoint in a new folder, another job trains.
    """
    return [
        resume(job["path"], job["overrides"], Path(job["run"]))
        if "path" in job
        else train_small(job["run"], job["overrides"], job["every"])
        for job in jobs
    ]


def resume_in_place(run: str) -> dict[str, Any]:
    """Resumes a run in its folder; returns its warnings, and the steps that were done."""
    collector, steps = RankWarningCollector(), []
    with after_step(lambda _, number: steps.append(number)):
        resume(Path(run), (), listeners=[collector])
    return {"warnings": collector.warnings, "steps": steps}


def resume_with_hidden_checkpoints(run: str) -> dict[str, Any]:
    """Resumes as `resume_in_place`, while rank 1 sees only the oldest checkpoint, as if it had looked earlier."""
    list_all = run_dir.list_checkpoints
    with ExitStack() as stack:
        for module in (run_dir, resume_module) if current_rank() else ():
            stack.enter_context(patch.object(module, "list_checkpoints", lambda path: list_all(path)[:1]))
        return resume_in_place(run)


def init_from_and_count_checks(path: str, run: str, overrides: list[str]) -> list[str]:
    """Starts a run from a checkpoint's weights; returns the files that this rank has compared with the manifest.

    Args:
        path: The checkpoint.
        run: The run folder.
        overrides: Changes of the small recipe.
    """
    checked: list[str] = []

    def check(folder: Path, manifest: Any, name: str) -> None:
        checked.append(name)
        check_file(folder, manifest, name)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for module in (load_module, reader):
            stack.enter_context(patch.object(module, "check_file", check))
        train(load_small_recipe(Path(folder), *overrides), Path(run), init_from=path)
    return checked


def describe_failure(function: Callable[[], Any]) -> dict[str, Any]:
    """Calls a function; returns the class and the text of its error."""
    try:
        function()
    except (NIError, OSError) as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None, "text": ""}


# Counting what is read and written.


class _CountingReader:
    """A safetensors file that counts the bytes that are read from its tensors."""

    def __init__(self, file: Any, counts: Counter[str]) -> None:
        self.file, self.counts = file, counts

    def keys(self) -> Any:
        return self.file.keys()

    def get_tensor(self, key: str) -> Tensor:
        return self._count(self.file.get_tensor(key))

    def get_slice(self, key: str) -> Any:
        return _CountingSlice(self.file.get_slice(key), self._count)

    def _count(self, tensor: Tensor) -> Tensor:
        self.counts["bytes"] += tensor.nbytes
        self.counts["largest"] = max(self.counts["largest"], tensor.numel())
        return tensor


class _CountingSlice:
    def __init__(self, view: Any, count: Callable[[Tensor], Tensor]) -> None:
        self.view, self.count = view, count

    def get_shape(self) -> list[int]:
        return self.view.get_shape()

    def __getitem__(self, index: Any) -> Tensor:
        return self.count(self.view[index])


def resume_and_count(path: str, run: str, overrides: list[str]) -> dict[str, Any]:
    """Resumes from a checkpoint; returns what loading it and saving the next one read, allocated and gathered.

    Args:
        path: The checkpoint.
        run: The new run folder.
        overrides: Changes of the recipe.
    """
    counts: Counter[str] = Counter()
    measured: dict[str, Any] = {}
    load, save, safe_open = TrainLoop.restore, loop.save_checkpoint, reader.safe_open

    def restore_counted(self: TrainLoop, resume_point: Any) -> None:
        gathered = _gather_count(self.engine)
        with MemoryTracker() as tracker:
            load(self, resume_point)
        gathered = _gather_count(self.engine) - gathered
        measured["load"] = {"peak": tracker.peak_bytes, "gathered": gathered, **counts}
        measured["whole numel"] = {
            name: getattr(p, "ds_numel", 0)
            for name, p in self.engine.model.named_parameters()
            if hasattr(p, "ds_numel")
        }
        measured["local numel"] = {name: _local_numel(p) for name, p in self.engine.model.named_parameters()}

    def save_counted(folder: Path, snapshot: Any, comm: Any) -> Path:
        gathered = _gather_count(engines[-1])
        with MemoryTracker() as tracker:
            saved = save(folder, snapshot, comm)
        states = [snapshot.weights, snapshot.ema_weights or {}, snapshot.training_state]
        shards = {name: value for name, value in snapshot.weights.items() if isinstance(value, TensorShard)}
        measured["save"] = {"peak": tracker.peak_bytes, "gathered": _gather_count(engines[-1]) - gathered}
        measured["local bytes"] = sum(local_tensor(value).nbytes for state in states for value in state.values())
        measured["shard numel"] = {name: shard.values_P.numel() for name, shard in shards.items()}
        return saved

    engines: list[Any] = []
    init = ZeroEngine.__init__

    def init_recorded(self: ZeroEngine, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        engines.append(self)

    with ExitStack() as stack:
        for patched in (
            patch.object(TrainLoop, "restore", restore_counted),
            patch.object(loop, "save_checkpoint", save_counted),
            patch.object(reader, "safe_open", lambda *a, **n: _CountingReader(safe_open(*a, **n), counts)),
            patch.object(ZeroEngine, "__init__", init_recorded),
        ):
            stack.enter_context(patched)
        resume(path, overrides, Path(run))
    return measured


def _gather_count(engine: Any) -> int:
    """Returns how often parameters were gathered so far."""
    import deepspeed

    counts = deepspeed.comm.comm.cdb.counts  # pyright: ignore[reportAttributeAccessIssue]
    return sum(number for name, number in counts.items() if name.startswith("all_gather"))


def _local_numel(parameter: Any) -> int:
    return parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else parameter.numel()


# Writing that is slow or fails.


def train_with_slow_writes(run: str, overrides: list[str], rank: int, seconds: float) -> Any:
    """Trains; one rank writes its shard of the weights late.

    Args:
        run: The run folder.
        overrides: Changes of the small recipe.
        rank: The slow rank.
        seconds: The delay.
    """
    write = save_module.write_new

    def slow_write(path: Path, chunks: Iterable[Any]) -> tuple[int, str]:
        if current_rank() == rank and path.name.startswith("model"):
            time.sleep(seconds)
        return write(path, chunks)

    with patch.object(save_module, "write_new", slow_write):
        return train_small(run, overrides)


def train_with_full_disk(run: str, overrides: list[str], rank: int, after: int) -> Any:
    """Trains with a checkpoint at every step; the disk of one rank is full after it has written `after` files."""
    write, files = save_module.write_new, Counter[str]()

    def failing_write(path: Path, chunks: Iterable[Any]) -> tuple[int, str]:
        files["written"] += 1
        if current_rank() == rank and files["written"] > after:
            content = b"".join(chunks)
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, chunks)

    with patch.object(save_module, "write_new", failing_write):
        return describe_failure(lambda: train_small(run, overrides, every=1))


def train_with_nonfinite_save(run: str, overrides: list[str], rank: int, step: int) -> Any:
    """Trains with a checkpoint at every step; after a step one of the weights that a rank stores is NaN.

    Args:
        run: The run folder.
        overrides: Changes of the small recipe.
        rank: The rank with the NaN.
        step: The step.
    """
    with after_step(
        lambda engine, number: _poison_weight(engine) if (number, current_rank()) == (step, rank) else None
    ):
        return describe_failure(lambda: train_small(run, overrides, every=1))


def _poison_weight(engine: Any) -> None:
    views = list(engine.parameters.local_values())
    if engine.stage == 0:
        # Every rank has all weights, and stores its share of them.
        share = engine.comm.local_range(views[0].numel())
        views[0].view(-1)[share.start] = float("nan")
    else:
        views[0].view(-1)[0] = float("nan")


@contextmanager
def after_step(action: Callable[[Any, int], object]) -> Iterator[None]:
    """Calls `action` with the engine and the number of steps done, after each step in the block."""
    step = ZeroEngine.step

    def step_and_act(self: ZeroEngine, number: int, batch: Batch, trace: bool) -> StepResult:
        result = step(self, number, batch, trace)
        action(self, number + 1)
        return result

    with patch.object(ZeroEngine, "step", step_and_act):
        yield
