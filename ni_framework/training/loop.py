"""A run under way: what it has, how far it is, and its steps. Read this after `trainer.py`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ni_framework.checkpoint.golden import golden_batch
from ni_framework.checkpoint.load import read_lock
from ni_framework.checkpoint.lockfile import lock_difference, lock_of
from ni_framework.checkpoint.manifest import AVERAGE, LOCK, RECIPE, TRAINING, WEIGHTS
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.resume import Resumption, run_of
from ni_framework.checkpoint.run_dir import METRICS, link_latest, place_of, point_to, retain
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.checkpoint.shards import State
from ni_framework.contracts import Batch, Split
from ni_framework.data.loader import batches
from ni_framework.data.sampler import Order
from ni_framework.distributed.communicator import Elsewhere, lost
from ni_framework.distributed.signals import Interrupted, Request, stop_requests
from ni_framework.distributed.straggler import Pace
from ni_framework.engines.base import Engine, Step
from ni_framework.errors import CheckpointError, FitError, PluginError, Problem, RunError
from ni_framework.evaluation.evaluate import Stopped, evaluate
from ni_framework.model.routing_metrics import routing_figures
from ni_framework.model.trace import trace_of
from ni_framework.recipe import Recipe, dump
from ni_framework.registry.attribution import blame
from ni_framework.registry.hooks import nobody, run_events
from ni_framework.training.collapse import Collapse
from ni_framework.training.metrics import Means, MetricsFile, keep_lines
from ni_framework.utils.atomic_files import replace_file, said
from ni_framework.utils.oom import too_large

SMALLER = "set train.recompute=iteration, raise train.accumulate, or lower train.batch"


class Training:
    """A run under way: what it has, how far it is, and its steps."""

    def __init__(
        self,
        engine: Engine,
        recipe: Recipe,
        splits: Mapping[str, Split],
        run: Path,
        every: int | None,
        keep: int | None,
        listeners: Sequence[object],
    ) -> None:
        self.engine, self.recipe, self.run, self.every, self.keep = engine, recipe, run, every, keep
        self.team = engine.team
        self.order = Order(splits["train"], recipe.train.batch, recipe.seed, self.team.share(recipe.train.batch))
        self.test = splits["test"]
        self.step, self.seconds, self.metrics, self.evaluated = 0, 0.0, {}, False
        self.means, self.collapse, self.pace = Means(), Collapse(), Pace(self.team)
        self.checkpoint: Path | None = None  # the last one, and its step and whether that was evaluated
        self.saved: tuple[int, bool] | None = None
        self.request = Request()
        self.asked: int | None = None  # to stop, in some process: the exit code that all have agreed on
        self.lock = lock_of(recipe, splits)
        self.num_parameters = engine.num_parameters
        self.file = MetricsFile(run / METRICS)
        self.tell = run_events(self.file, *listeners) if self.team.leads else nobody()
        self.notes = self.tell.faults  # to be told as soon as somebody listens

    def restore(self, resumption: Resumption) -> None:
        """Becomes what it was at a checkpoint, in whatever number of processes that was written.

        Raises `CheckpointError` if that was of another model or of other data.
        """
        self.checkpoint, manifest = resumption.checkpoint, resumption.manifest
        self.notes += resumption.notes
        self._compare(read_lock(self.checkpoint, manifest))
        weights, training = (Stored(self.checkpoint, manifest, name, checked=True) for name in (WEIGHTS, TRAINING))
        averaged = AVERAGE in manifest.whole_files
        averages = Stored(self.checkpoint, manifest, AVERAGE, checked=True) if averaged else None
        try:
            self.engine.load_weights(weights, averages, self.checkpoint)
            self.engine.load_training_state(training.under("engine"))
            self.means.load_state(training.under("means").all(), self.engine.device)
            self.collapse.load_state(training.under("collapse").all())
        except (KeyError, ValueError, RuntimeError) as error:
            if lost(error):
                raise
            raise CheckpointError(f"{self.checkpoint}: holds no training state of this run ({error})") from error
        self.step, self.seconds, self.evaluated = manifest.step, manifest.seconds, manifest.evaluated
        self.saved = (self.step, self.evaluated)
        known = {name: value for name, value in manifest.metrics.items() if name.startswith("train/")}
        self.metrics = {name: math.nan if value is None else value for name, value in known.items()}

    def begin(self) -> None:
        """Writes what a run folder holds from its first moment on, and says that the run starts."""
        with self.team.agreed():
            if self.team.leads:
                self._write_beginning()
        self.tell.run_start(run=str(self.run), recipe=self.recipe, num_parameters=self.num_parameters)
        for note in self.notes:
            self.warn(note)

    def _write_beginning(self) -> None:
        if self.checkpoint is None:
            (self.run / METRICS).unlink(missing_ok=True)  # of a run that never got to a checkpoint
        else:
            source = run_of(self.checkpoint) or self.run
            self.file.seconds = keep_lines(source / METRICS, self.step, self.run / METRICS, self.evaluated)
        replace_file(self.run / RECIPE, dump(self.recipe).encode())
        replace_file(self.run / LOCK, (json.dumps(self.lock, indent=2) + "\n").encode())
        link_latest(self.run)

    def warn(self, message: str) -> None:
        """Tells the listeners, and so the log, of something that looks wrong."""
        self.tell.run_warning(step=self.step, message=message)

    def state(self) -> State:
        """What the next step needs beside the weights; order, noise and learning rate are functions of seed and step."""
        parts: dict[str, State] = {"engine": self.engine.training_state()}
        if self.team.leads:
            parts |= {"means": self.means.state(), "collapse": self.collapse.state()}
        return {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}

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
            except Elsewhere as error:
                if error.on_disk:
                    raise Elsewhere(f"step {self.step}: {error}; {self._way_on()}", error.exit_code) from error
                raise
            except (Exception, SystemExit) as error:
                if lost(error):
                    raise
                self._rescue()
                if isinstance(error, OSError):
                    raise RunError(f"step {self.step}: {said(error)}; {self._way_on()}") from error
                if too_large(error):
                    reason = str(error).partition("\n")[0]
                    where = f"step {self.step + 1}: does not fit this machine: {reason}"
                    raise FitError(f"{where}; {SMALLER}") from error
                if problem := error.problems[0] if isinstance(error, PluginError) else blame(error):
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
        self.pace.begin()
        for batch in prepared:
            self._step(batch)
            self.seconds += time.monotonic() - begin
            if slow := self.pace.told(self.step):
                self.warn(slow)
            self._evaluate_if_due()
            if self.every and self.step % self.every == 0 and self.step < settings.steps:
                self._save()
            self._stop_if_asked()
            begin = time.monotonic()
            self.pace.begin()

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
        where = self._whereabouts(batch)
        self.warn(f"step {self.step} was skipped: {fault}; {where}")
        row, budget = self.engine.guard.skipped, self.recipe.train.skip.budget
        if row >= budget:
            raise RunError(
                f"step {self.step}: {row} steps in a row were skipped, the last because {fault}; {where}; "
                "lower train.optimizer.lr, set train.clip, mend the data, or raise train.skip.budget"
            )

    def _whereabouts(self, batch: Batch) -> str:
        """Which samples of which process a skipped step went wrong with."""
        diagnosis = self.engine.diagnose(batch)
        found = [diagnosis.origin is not None, diagnosis.words(self.order.index(self.order.positions(self.step - 1)))]
        told = self.team.gather(found)
        if len(told) == 1:
            return told[0][1]
        at_fault = [rank for rank, (certain, _) in enumerate(told) if certain] or range(len(told))
        return "; ".join(f"in process {rank}: {told[rank][1]}" for rank in at_fault)

    def _log(self, done: Step) -> None:
        self.metrics = {f"train/{name}": value for name, value in self.means.take().items()}
        figures = self.team.means(routing_figures(trace_of(done.forward), done.batch.mask))
        rate = {"lr": self.engine.rate(self.step - 1)}
        self.tell.run_log(step=self.step, metrics=self.metrics | figures | rate)
        for alarm in self.collapse.alarms(figures):
            self.warn(alarm)

    def _evaluate_if_due(self) -> None:
        settings = self.recipe.train
        last, every = self.step == settings.steps, settings.evaluate_every
        due = last or (every and self.step and self.step % every == 0)
        if not due or self.evaluated or self.asked:
            return
        with self.engine.inference() as model:
            try:
                metrics = evaluate(model, self.test, self.engine.autocast(), self._is_asked, self.team)
            except Stopped:
                return
        self.evaluated = True
        if last:
            self.metrics |= metrics
        self.tell.run_evaluation(step=self.step, metrics=metrics)

    def _save(self) -> None:
        if self.saved == (self.step, self.evaluated):
            return
        with self.engine.inference() as model:
            golden = golden_batch(model)
        snapshot = Snapshot(
            weights=self.engine.weights(),
            average=self.engine.averages(),
            training=self.state(),
            golden=golden,
            recipe=self.recipe,
            lock=self.lock,
            step=self.step,
            seconds=self.seconds,
            evaluated=self.evaluated,
            every=self.every,
            keep=self.keep,
            metrics=self.metrics,
        )
        place = place_of(self.run, self.step, self.recipe.train.steps)
        self.checkpoint = save_checkpoint(place, snapshot, self.team)
        with self.team.agreed():
            if self.team.leads:
                point_to(self.checkpoint)
        self.saved = (self.step, self.evaluated)
        self.tell.run_checkpoint(step=self.step, checkpoint=str(self.checkpoint))
        if self.keep is not None and self.team.leads:
            try:
                retain(self.run, self.keep)
            except OSError as error:  # too many checkpoints are no reason to end a run
                self.warn(f"an old checkpoint could not be removed: {said(error)}")

    def _stop_if_asked(self) -> None:
        complete = self.step == self.recipe.train.steps and self.evaluated
        if self._is_asked() and not complete:
            self._save()
            message = f"interrupted after step {self.step}; saved as {self.checkpoint}; go on with ni train --resume {self.run}"
            raise Interrupted(message, self.asked or 1)

    def _is_asked(self) -> bool:
        """Whether some process was asked to stop; all of them learn it at the same place."""
        self.asked = self.team.largest(self.request.exit_code or 0) or None
        return self.asked is not None

    def _rescue(self) -> None:
        """Saves the last complete step before an error is told; if that fails too, the first error is the one to tell.

        A process among several cannot do so alone.
        """
        if self.step and not self.engine.updating and self.team.size == 1:
            try:
                self._save()
            except Exception:
                return

    def _way_on(self) -> str:
        if self.checkpoint is None:
            return "nothing was saved yet; mend that and train again"
        return f"the last checkpoint is {self.checkpoint}; mend that and go on with ni train --resume {self.run}"
