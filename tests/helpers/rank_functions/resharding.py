"""What processes do in the tests of checkpoints; each function is called in all of them, with JSON documents."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ni_framework.analysis.memory_tracker import LiveBytes
from ni_framework.checkpoint import reader, run_dir
from ni_framework.checkpoint import resume as resumption
from ni_framework.checkpoint import save as checkpoint
from ni_framework.checkpoint.manifest import check_file
from ni_framework.checkpoint.shards import Piece, held
from ni_framework.contracts import Batch, hookimpl
from ni_framework.data.sampler import Order
from ni_framework.engines.base import Engine, Step
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.engines.step_guard import RECENT
from ni_framework.errors import NIError
from ni_framework.training import loop
from ni_framework.training.loop import Training
from ni_framework.training.train import resume, train
from tests.helpers.small_recipe import small_recipe


def rank_and_size() -> tuple[int, int]:
    """Which of how many processes this is."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def trained(run: str, overrides: list[str], every: int | None = None, listener: object = None) -> Any:
    """Trains in a run folder."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), *overrides)
    return train(recipe, Path(run), every=every, listeners=[listener] if listener else ())


def run_all(jobs: list[dict[str, Any]]) -> list[Any]:
    """Trains, or goes on from a checkpoint in a folder of its own, one job after the other; the summaries."""
    return [
        resume(job["path"], job["overrides"], Path(job["run"]))
        if "path" in job
        else trained(job["run"], job["overrides"], job["every"])
        for job in jobs
    ]


def resumed_in_place(run: str) -> dict[str, Any]:
    """Goes on in a run folder; what was warned of, and the steps that were done."""
    warned, steps = Warnings(), []
    with _after_step(lambda _, number: steps.append(number)):
        resume(Path(run), (), listeners=[warned])
    return {"warned": warned.found, "steps": steps}


def resumed_where_one_sees_less(run: str) -> dict[str, Any]:
    """The same; process 1 sees only the oldest checkpoint, as if it had looked before the others were written."""
    listed = run_dir.checkpoints_of
    with ExitStack() as stack:
        for module in (run_dir, resumption) if _rank() else ():
            stack.enter_context(patch.object(module, "checkpoints_of", lambda path: listed(path)[:1]))
        return resumed_in_place(run)


def begun_with(path: str, run: str, overrides: list[str]) -> list[str]:
    """Begins a run with a checkpoint's weights; the files that this process has compared with the manifest."""
    seen: list[str] = []

    def check(folder: Path, manifest: Any, name: str) -> None:
        seen.append(name)
        check_file(folder, manifest, name)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for module in (checkpoint, reader):
            stack.enter_context(patch.object(module, "check_file", check))
        train(small_recipe(Path(folder), *overrides), Path(run), start=path)
    return seen


def failing(function: Callable[[], Any]) -> dict[str, Any]:
    """How a function fails: the class and the text of its error."""
    try:
        function()
    except (NIError, OSError) as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None, "text": ""}


# Reading and writing, counted.


class _Read:
    """A safetensors file that counts the bytes that are read of its tensors."""

    def __init__(self, file: Any, counts: Counter[str]) -> None:
        self.file, self.counts = file, counts

    def keys(self) -> Any:
        return self.file.keys()

    def get_tensor(self, key: str) -> Tensor:
        return self._counted(self.file.get_tensor(key))

    def get_slice(self, key: str) -> Any:
        return _Slice(self.file.get_slice(key), self._counted)

    def _counted(self, tensor: Tensor) -> Tensor:
        self.counts["bytes"] += tensor.nbytes
        self.counts["largest"] = max(self.counts["largest"], tensor.numel())
        return tensor


class _Slice:
    def __init__(self, view: Any, counted: Callable[[Tensor], Tensor]) -> None:
        self.view, self.counted = view, counted

    def get_shape(self) -> list[int]:
        return self.view.get_shape()

    def __getitem__(self, index: Any) -> Tensor:
        return self.counted(self.view[index])


def counted_move(path: str, run: str, overrides: list[str]) -> dict[str, Any]:
    """Goes on from a checkpoint, and what loading it and saving the next one read, held and sent."""
    counts: Counter[str] = Counter()
    found: dict[str, Any] = {}
    load, save, opened = Training.restore, loop.save_checkpoint, reader.safe_open

    def restore(self: Training, resumption: Any) -> None:
        gathered = _gathered(self.engine)
        with LiveBytes() as live:
            load(self, resumption)
        found["load"] = {"peak": live.peak, "gathered": _gathered(self.engine) - gathered, **counts}
        found["whole"] = {
            name: getattr(p, "ds_numel", 0)
            for name, p in self.engine.model.named_parameters()
            if hasattr(p, "ds_numel")
        }
        found["here"] = {name: _numbers_here(p) for name, p in self.engine.model.named_parameters()}

    def save_counted(place: Path, snapshot: Any, team: Any) -> Path:
        gathered = _gathered(engines[-1])
        with LiveBytes() as live:
            saved = save(place, snapshot, team)
        states = [snapshot.weights, snapshot.average or {}, snapshot.training]
        found["save"] = {"peak": live.peak, "gathered": _gathered(engines[-1]) - gathered}
        found["own"] = sum(held(value).nbytes for state in states for value in state.values())
        found["pieces"] = {n: v.part_P.numel() for n, v in snapshot.weights.items() if isinstance(v, Piece)}
        return saved

    engines: list[Any] = []
    made = ZeroEngine.__init__

    def make(self: ZeroEngine, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        engines.append(self)

    with ExitStack() as stack:
        for patched in (
            patch.object(Training, "restore", restore),
            patch.object(loop, "save_checkpoint", save_counted),
            patch.object(reader, "safe_open", lambda *a, **n: _Read(opened(*a, **n), counts)),
            patch.object(ZeroEngine, "__init__", make),
        ):
            stack.enter_context(patched)
        resume(path, overrides, Path(run))
    return found


def _gathered(engine: Any) -> int:
    """How often parameters were gathered so far."""
    import deepspeed

    counts = deepspeed.comm.comm.cdb.counts  # pyright: ignore[reportAttributeAccessIssue]
    return sum(number for name, number in counts.items() if name.startswith("all_gather"))


def _numbers_here(parameter: Any) -> int:
    return parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else parameter.numel()


# Writing that is late or fails.


def late(run: str, overrides: list[str], rank: int, seconds: float) -> Any:
    """Trains; a process writes each of its shards late."""
    write = checkpoint.write_file

    def slowly(path: Path, content: bytes) -> None:
        if rank_and_size()[0] == rank and path.name.startswith("model"):
            time.sleep(seconds)
        write(path, content)

    with patch.object(checkpoint, "write_file", slowly):
        return trained(run, overrides)


def full_disk(run: str, overrides: list[str], rank: int, after: int) -> Any:
    """Trains with a checkpoint at every step; a process has no space left from its `after`th file on."""
    write, files = checkpoint.write_file, Counter[str]()

    def failing_write(path: Path, content: bytes) -> None:
        files["written"] += 1
        if rank_and_size()[0] == rank and files["written"] > after:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    with patch.object(checkpoint, "write_file", failing_write):
        return failing(lambda: trained(run, overrides, every=1))


def poisoned_save(run: str, overrides: list[str], rank: int, step: int) -> Any:
    """Trains with a checkpoint at every step; after a step one of the weights that a process stores is no number."""
    with _after_step(lambda engine, number: _poison(engine) if (number, _rank()) == (step, rank) else None):
        return failing(lambda: trained(run, overrides, every=1))


def _rank() -> int:
    return rank_and_size()[0]


def _poison(engine: Any) -> None:
    views = list(engine.parameters.present())
    if engine.stage == 0:  # every process stores its share
        share = engine.team.share(views[0].numel())
        views[0].view(-1)[share.start] = float("nan")
    else:
        views[0].view(-1)[0] = float("nan")


@contextmanager
def _after_step(then: Callable[[Any, int], object]) -> Iterator[None]:
    step = ZeroEngine.step

    def stepped(self: ZeroEngine, number: int, batch: Batch, trace: bool) -> Step:
        done = step(self, number, batch, trace)
        then(self, number + 1)
        return done

    with patch.object(ZeroEngine, "step", stepped):
        yield


# Numbers that are none.


class Warnings:
    """What a run warns of."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.found.append((step, message))


def bits(engine: Any) -> list[Tensor]:
    """All that this process holds of weights, averages and what the optimizer remembers, as it is now."""
    states = [engine.weights(), engine.averages() or {}, engine.optimizer_state()]
    own = [held(value) for state in states for value in state.values()]
    # At stage 3 a parameter comes and goes; its own part of it is what stays.
    replicas = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.model.parameters()]
    return [tensor.detach().clone().view(-1) for tensor in (*own, *replicas)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two such lists have the same bits."""
    return len(first) == len(second) and all(
        torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in zip(first, second, strict=True)
    )


def poisoned_input(run: str, overrides: list[str], places: dict[str, list[int]]) -> dict[str, Any]:
    """Trains; at each step among `places`, by [rank, sample, element], one number of one process's input is none.

    Returns whether anything changed at each step, which samples were poisoned, what was warned of, and how it ended.
    """
    changed: dict[int, bool] = {}
    samples: dict[int, int] = {}
    warned = Warnings()
    step, batch_of = Engine.step, Order.__getitem__

    def stepped(self: Engine, number: int, batch: Batch, trace: bool) -> Step:
        before = bits(self)
        done = step(self, number, batch, trace)
        changed[number + 1] = not same(before, bits(self))
        return done

    def poisoned(self: Order, number: int) -> Batch:
        batch = batch_of(self, number)
        rank, sample, element = places.get(str(number + 1), [-1, 0, 0])
        if _rank() == rank and len(self.share) < self.batch:
            batch = batch._replace(inputs=batch.inputs.clone())
            batch.inputs[sample].view(-1)[element] = float("nan")
            samples[number + 1] = int(self.index(self.positions(number))[sample])
        return batch

    with patch.object(Engine, "step", stepped), patch.object(Order, "__getitem__", poisoned):
        ended = failing(lambda: trained(run, overrides, listener=warned))
    return {"changed": changed, "samples": samples, "warned": warned.found, **ended}


def poisoned_weight(run: str, overrides: list[str], rank: int, step: int, name: str) -> dict[str, Any]:
    """Trains; after a step one of the weights that a process computes with is no number."""
    warned = Warnings()

    def poison(engine: Any, number: int) -> None:
        if (number, _rank()) == (step, rank):
            with torch.no_grad():
                dict(engine.model.named_parameters())[name].view(-1)[-1] = float("nan")

    with _after_step(poison):
        ended = failing(lambda: trained(run, overrides, listener=warned))
    return {"warned": warned.found, **ended}


def poisoned_gradient(run: str, overrides: list[str], rank: int, step: int, name: str) -> dict[str, Any]:
    """Trains; after a step one of the gradients that a process computes is no number."""

    def poison(engine: Any, number: int) -> None:
        if (number, _rank()) == (step, rank):
            dict(engine.model.named_parameters())[name].register_hook(lambda gradient: gradient * float("nan"))

    with _after_step(poison):
        return failing(lambda: trained(run, overrides))


def spiked(run: str, overrides: list[str], rank: int, factors: dict[str, float]) -> dict[str, Any]:
    """Trains with a guard that has seen enough; at some steps one process's loss is larger by a factor.

    Returns the steps that this process has skipped, by reason, and what its guard remembers at the end.
    """
    skipped: dict[int, str] = {}
    guards: list[list[float]] = []
    answers, step, current = Engine._answers, Engine.step, Counter[str]()

    def stepped(self: Engine, number: int, batch: Batch, trace: bool) -> Step:
        guard = self.guard
        if not guard.seen:
            guard.seen, guard.mean, guard.square = RECENT, 2.4, 2.4**2
        current["step"] = number + 1
        done = step(self, number, batch, trace)
        if done.fault:
            skipped[number + 1] = done.fault
        guards.append([guard.seen, guard.mean, guard.square, guard.skipped])
        return done

    def larger(self: Engine, *arguments: Any) -> Any:
        loss, metrics = answers(self, *arguments)
        return loss * (factors.get(str(current["step"]), 1.0) if _rank() == rank else 1.0), metrics

    with patch.object(Engine, "step", stepped), patch.object(Engine, "_answers", larger):
        trained(run, overrides)
    return {"skipped": skipped, "guards": guards}
