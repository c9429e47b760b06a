"""Training, from a recipe to a run folder with a trained model. Read this first."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ni_framework.contracts import Batch, Split
from ni_framework.engine.checkpoint import (
    Snapshot,
    begin_with,
    load_weights,
    read_lock,
    read_tensors,
    save_checkpoint,
)
from ni_framework.engine.collapse import Collapse
from ni_framework.engine.evaluate import Stopped, evaluate
from ni_framework.engine.files import replace_file
from ni_framework.engine.interrupt import Interrupted, Request, stop_requests
from ni_framework.engine.loader import batches
from ni_framework.engine.local import LocalEngine, Step, under
from ni_framework.engine.manifest import AVERAGE, LOCK, RECIPE, TRAINING
from ni_framework.engine.metrics import Means, MetricsFile, keep_lines
from ni_framework.engine.order import Order
from ni_framework.engine.probe import probe
from ni_framework.engine.provenance import lock_difference, lock_of
from ni_framework.engine.resume import Resumption, check_in_place, find_resumption, followed, run_of
from ni_framework.engine.run_folder import (
    METRICS,
    check_new,
    find_checkpoint,
    link_latest,
    locked,
    place_of,
    point_to,
    retain,
)
from ni_framework.errors import CheckpointError, FitError, PluginError, Problem, RunError, UsageError
from ni_framework.model.blame import blame, blamed, too_large
from ni_framework.model.compose import build_data, build_model
from ni_framework.model.figures import routing_figures
from ni_framework.model.trace import trace_of
from ni_framework.recipe import Recipe, dump
from ni_framework.registry.hooks import run_events

SMALLER = "set train.recompute=iteration, raise train.accumulate, or lower train.batch"


@blamed()
def train(
    recipe: Recipe,
    run: Path,
    *,
    every: int | None = None,
    keep: int | None = None,
    start: str | None = None,
    listeners: Sequence[object] = (),
) -> dict[str, Any]:
    """Trains a recipe's model in the folder `run`, and returns the summary that `ni train --json` prints.

    `every` is the number of steps between checkpoints (one is always written at the end), `keep` how many of them stay
    (None: all), `start` a checkpoint whose weights the model begins with, `listeners` hear the run's events. Raises
    `RunError` where the run fails, `Interrupted` where a signal ends it.
    """
    with locked(run):
        check_new(run)
        splits = build_data(recipe).open()
        engine = _engine(recipe)
        notes = begin_with(engine.model, find_checkpoint(start)) if start is not None else []
        training = Training(engine, recipe, splits, run, every, keep, listeners)
        training.notes += notes
        training.begin()
        probe(engine, training.order, training.tell)
        return training.finish()


@blamed()
def resume(
    path: str | Path,
    overrides: Sequence[str] = (),
    run: Path | None = None,
    *,
    every: int | None = None,
    keep: int | None = None,
    listeners: Sequence[object] = (),
) -> dict[str, Any]:
    """Goes on from a run's newest good checkpoint, or from the one named, in its run folder or in a new one.

    What follows is what would have followed: on the CPU to the last bit in weights, optimizer, metrics. `every` and `keep`
    stay as they were unless given. Raises `CheckpointError` if there is nothing to go on from.
    """
    path = followed(Path(path))
    own = run_of(path)
    place = run or own
    if place is None:
        raise UsageError(f"{find_checkpoint(path)}: lies in no run folder; name a new one with --output")
    in_place = own is not None and place.resolve() == own.resolve()
    with locked(place):
        resumption = find_resumption(path, overrides)
        if in_place:
            check_in_place(resumption, place)
        else:
            check_new(place)
        splits = build_data(resumption.recipe).open()
        every, keep = every or resumption.manifest.every, keep or resumption.manifest.keep
        training = Training(_engine(resumption.recipe), resumption.recipe, splits, place, every, keep, listeners)
        training.restore(resumption)
        training.begin()
        return training.finish()


def _engine(recipe: Recipe) -> LocalEngine:
    return LocalEngine(build_model(recipe, "cuda" if torch.cuda.is_available() else "cpu"), recipe)


class Training:
    """A run under way: what it has, how far it is, and its steps."""

    def __init__(
        self,
        engine: LocalEngine,
        recipe: Recipe,
        splits: Mapping[str, Split],
        run: Path,
        every: int | None,
        keep: int | None,
        listeners: Sequence[object],
    ) -> None:
        self.engine, self.recipe, self.run, self.every, self.keep = engine, recipe, run, every, keep
        self.order, self.test = Order(splits["train"], recipe.train.batch, recipe.seed), splits["test"]
        self.step, self.seconds, self.metrics, self.evaluated = 0, 0.0, {}, False
        self.means, self.collapse = Means(), Collapse()
        self.checkpoint: Path | None = None  # the last one, and its step and whether that was evaluated
        self.saved: tuple[int, bool] | None = None
        self.request = Request()
        self.lock = lock_of(recipe, splits)
        self.num_parameters = sum(parameter.numel() for parameter in engine.model.parameters())
        self.file = MetricsFile(run / METRICS)
        self.tell = run_events(self.file, *listeners)
        self.notes = self.tell.faults  # to be told as soon as somebody listens

    def restore(self, resumption: Resumption) -> None:
        """Becomes what it was at a checkpoint.

        Raises `CheckpointError` if that was of another model or of other data.
        """
        self.checkpoint, manifest = resumption.checkpoint, resumption.manifest
        self.notes += resumption.notes
        self._compare(read_lock(self.checkpoint, manifest))
        load_weights(self.engine.model, self.checkpoint, manifest)
        if self.engine.average is not None:
            load_weights(self.engine.average, self.checkpoint, manifest, AVERAGE)
        self._load(read_tensors(self.checkpoint, manifest, TRAINING))
        self.step, self.seconds, self.evaluated = manifest.step, manifest.seconds, manifest.evaluated
        self.saved = (self.step, self.evaluated)
        known = {name: value for name, value in manifest.metrics.items() if name.startswith("train/")}
        self.metrics = {name: math.nan if value is None else value for name, value in known.items()}

    def begin(self) -> None:
        """Writes what a run folder holds from its first moment on, and says that the run starts."""
        if self.checkpoint is None:
            (self.run / METRICS).unlink(missing_ok=True)  # of a run that never got to a checkpoint
        else:
            source = run_of(self.checkpoint) or self.run
            self.file.seconds = keep_lines(source / METRICS, self.step, self.run / METRICS, self.evaluated)
        replace_file(self.run / RECIPE, dump(self.recipe).encode())
        replace_file(self.run / LOCK, (json.dumps(self.lock, indent=2) + "\n").encode())
        link_latest(self.run)
        self.tell.run_start(run=str(self.run), recipe=self.recipe, num_parameters=self.num_parameters)
        for note in self.notes:
            self.warn(note)

    def warn(self, message: str) -> None:
        """Tells the listeners, and so the log, of something that looks wrong."""
        self.tell.run_warning(step=self.step, message=message)

    def state(self) -> dict[str, Tensor]:
        """What the next step needs beside the weights; order, noise and learning rate are functions of seed and step."""
        parts = {"engine": self.engine.training_state(), "means": self.means.state(), "collapse": self.collapse.state()}
        return {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}

    def _load(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned; raises `CheckpointError` for anything else."""
        try:
            self.engine.load_training_state(under("engine", stored))
            self.means.load_state(under("means", stored), self.engine.device)
            self.collapse.load_state(under("collapse", stored))
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.checkpoint}: holds no training state of this run ({error})") from error

    def _compare(self, lock: Mapping[str, Any]) -> None:
        """Refuses other data than the run began with, and warns of other code, which may round otherwise."""
        differences = lock_difference(lock, self.lock)
        if data := [difference for difference in differences if difference.startswith("data")]:
            raise CheckpointError(f"{self.checkpoint}: was trained on other data ({data[0]}); restore them to go on")
        self.notes += [f"not as when it was saved, so the run may go on otherwise: {text}" for text in differences]

    def finish(self) -> dict[str, Any]:
        """The steps that are left, evaluation, the last checkpoint, and the summary of it all.

        Whatever fails, the last complete step is saved first if that is possible.
        """
        settings = self.recipe.train
        with stop_requests() as self.request:
            try:
                self._evaluate_if_due()
                self._stop_if_asked()
                with closing(batches(self.order, self.step, settings.steps, settings.workers)) as prepared:
                    self._train(prepared)
                self._save()
            except Interrupted:
                raise
            except (Exception, SystemExit) as error:
                self._rescue()
                if isinstance(error, OSError):
                    raise RunError(f"step {self.step}: {_said(error)}; {self._way_on()}") from error
                if too_large(error):
                    reason = str(error).partition("\n")[0]
                    where = f"step {self.step + 1}: does not fit this machine: {reason}"
                    raise FitError(f"{where}; {SMALLER}") from error
                if problem := blame(error):
                    where = f"step {self.step + 1}: {problem.message}"
                    raise PluginError([Problem(where, hint=f"{problem.hint}; {self._way_on()}")]) from error
                raise
        summary = {
            "run": str(self.run),
            "checkpoint": str(self.checkpoint),
            "parameters": self.num_parameters,
            "seconds": round(self.seconds, 2),
            "metrics": self.metrics,
        }
        self.tell.run_end(summary=summary)
        return summary

    def _train(self, prepared: Iterable[Batch]) -> None:
        settings = self.recipe.train
        begin = time.monotonic()
        for batch in prepared:
            self._step(batch)
            self.seconds += time.monotonic() - begin
            self._evaluate_if_due()
            if self.every and self.step % self.every == 0 and self.step < settings.steps:
                self._save()
            self._stop_if_asked()
            begin = time.monotonic()

    def _step(self, batch: Batch) -> None:
        settings = self.recipe.train
        number = self.step + 1
        logs = number % settings.log_every == 0 or number == settings.steps
        done = self.engine.step(self.step, batch, trace=logs)
        self.step, self.evaluated = number, False
        if done.fault is None:
            self.means.add(done.values)
        else:
            self._skipped(done.fault, batch)
        self.tell.run_step(step=number, samples=settings.batch, values=done.values)
        if logs:
            self._log(done)

    def _skipped(self, fault: str, batch: Batch) -> None:
        index_B = self.order.index(torch.arange((self.step - 1) * len(batch.inputs), self.step * len(batch.inputs)))
        where = self.engine.diagnose(batch).words(index_B)
        self.warn(f"step {self.step} was skipped: {fault}; {where}")
        row, budget = self.engine.guard.skipped, self.recipe.train.skip.budget
        if row >= budget:
            raise RunError(
                f"step {self.step}: {row} steps in a row were skipped, the last because {fault}; {where}; "
                "lower train.optimizer.lr, set train.clip, mend the data, or raise train.skip.budget"
            )

    def _log(self, done: Step) -> None:
        self.metrics = {f"train/{name}": value for name, value in self.means.take().items()}
        figures = routing_figures(trace_of(done.forward), done.batch.mask)
        rate = {"lr": self.engine.rate(self.step - 1)}
        self.tell.run_log(step=self.step, metrics=self.metrics | figures | rate)
        for alarm in self.collapse.alarms(figures):
            self.warn(alarm)

    def _evaluate_if_due(self) -> None:
        settings = self.recipe.train
        last, every = self.step == settings.steps, settings.evaluate_every
        due = last or (every and self.step and self.step % every == 0)
        if not due or self.evaluated or self.request:
            return
        try:
            metrics = evaluate(self.engine.inference, self.test, self.engine.autocast(), lambda: bool(self.request))
        except Stopped:
            return
        self.evaluated = True
        if last:
            self.metrics |= metrics
        self.tell.run_evaluation(step=self.step, metrics=metrics)

    def _save(self) -> None:
        if self.saved == (self.step, self.evaluated):
            return
        snapshot = Snapshot(
            model=self.engine.model,
            average=self.engine.average,
            training=self.state(),
            recipe=self.recipe,
            lock=self.lock,
            step=self.step,
            seconds=self.seconds,
            evaluated=self.evaluated,
            every=self.every,
            keep=self.keep,
            metrics=self.metrics,
        )
        self.checkpoint = save_checkpoint(place_of(self.run, self.step, self.recipe.train.steps), snapshot)
        point_to(self.checkpoint)
        self.saved = (self.step, self.evaluated)
        self.tell.run_checkpoint(step=self.step, checkpoint=str(self.checkpoint))
        if self.keep is not None:
            try:
                retain(self.run, self.keep)
            except OSError as error:  # too many checkpoints are no reason to end a run
                self.warn(f"an old checkpoint could not be removed: {_said(error)}")

    def _stop_if_asked(self) -> None:
        complete = self.step == self.recipe.train.steps and self.evaluated
        if self.request.exit_code is not None and not complete:
            self._save()
            message = f"interrupted after step {self.step}; saved as {self.checkpoint}; go on with ni train --resume {self.run}"
            raise Interrupted(message, self.request.exit_code)

    def _rescue(self) -> None:
        """Saves the last complete step before an error is told; if that fails too, the first error is the one to tell."""
        if self.step and not self.engine.updating:
            try:
                self._save()
            except Exception:
                return

    def _way_on(self) -> str:
        if self.checkpoint is None:
            return "nothing was saved yet; mend that and train again"
        return f"the last checkpoint is {self.checkpoint}; mend that and go on with ni train --resume {self.run}"


def _said(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
