"""The training loop of a run: steps, evaluation, checkpoints, errors. Read `train.py` first."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ni_framework.checkpoint.golden import make_golden_batch
from ni_framework.checkpoint.load import read_lockfile
from ni_framework.checkpoint.lockfile import build_lockfile, compare_lockfiles
from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, LOCKFILE, RECIPE_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.resume import ResumePoint, find_run_dir
from ni_framework.checkpoint.run_dir import METRICS_FILE, checkpoint_dir, link_latest, prune_checkpoints, write_latest
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.checkpoint.shards import ShardedState
from ni_framework.contracts import Batch, Split
from ni_framework.data.loader import iter_training_batches
from ni_framework.data.sampler import EpochSampler
from ni_framework.distributed.communicator import RemoteRankError, is_connection_error
from ni_framework.distributed.signals import RunInterrupted, StopRequest, graceful_shutdown
from ni_framework.distributed.straggler import StragglerDetector
from ni_framework.engines.base import Engine, StepResult
from ni_framework.errors import CheckpointError, FitError, NIError, PluginError, Problem, RunError
from ni_framework.evaluation.evaluate import EvaluationStopped, evaluate_model
from ni_framework.model.routing_metrics import routing_metrics
from ni_framework.model.trace import trace_from_output
from ni_framework.recipe import Recipe, dump
from ni_framework.registry.attribution import attribute_error
from ni_framework.registry.hooks import make_hook_runner, no_hooks
from ni_framework.training.collapse import CollapseDetector
from ni_framework.training.metrics import MeanAccumulator, MetricsFile, truncate_metrics
from ni_framework.training.progress import CheckpointPolicy, Progress
from ni_framework.utils.atomic_files import atomic_write, format_os_error
from ni_framework.utils.oom import is_out_of_memory

MEMORY_HINT = "set train.activation_checkpointing=iteration, raise train.micro_batches, or lower train.batch"


class TrainLoop:
    """A run in progress: what it trains, how far it is, and what each step does."""

    def __init__(
        self,
        engine: Engine,
        recipe: Recipe,
        splits: Mapping[str, Split],
        run_dir: Path,
        checkpoint_policy: CheckpointPolicy,
        listeners: Sequence[object],
    ) -> None:
        """Prepares a run at step 0; `restore` makes it continue from a checkpoint.

        Args:
            engine: Holds the model and the optimizer.
            recipe: The recipe of the run.
            splits: The data, with the splits "train" and "test".
            run_dir: The run folder.
            checkpoint_policy: When checkpoints are written, and how many are kept.
            listeners: Objects with hooks of `contracts.RunEvents`, in addition to the installed ones; rank 0 calls them.
        """
        self.engine, self.recipe, self.run_dir = engine, recipe, run_dir
        self.checkpoint_policy = checkpoint_policy
        self.comm = engine.comm
        local_range = self.comm.local_range(recipe.train.batch)
        self.sampler = EpochSampler(splits["train"], recipe.train.batch, recipe.seed, local_range)
        self.test_split = splits["test"]
        self.lockfile = build_lockfile(recipe, splits)
        self.num_parameters = engine.num_parameters

        self.progress = Progress()
        self.mean_accumulator = MeanAccumulator()
        self.collapse_detector = CollapseDetector()
        self.straggler_detector = StragglerDetector(self.comm)

        self.last_checkpoint: Path | None = None
        # The step of the last checkpoint, and whether its model had been evaluated.
        self._last_saved: tuple[int, bool] | None = None

        self._stop_request = StopRequest()
        # The exit code to stop with, once all ranks have agreed to stop because one of them was asked to.
        self._stop_exit_code: int | None = None

        self.metrics_file = MetricsFile(run_dir / METRICS_FILE)
        self.hooks = make_hook_runner(self.metrics_file, *listeners) if self.comm.is_rank_zero else no_hooks()
        # Warnings from before the start of the run, reported as soon as it starts.
        self.pending_warnings = list(self.hooks.load_errors)

    def restore(self, resume_point: ResumePoint) -> None:
        """Restores the state of a checkpoint, whatever the number of ranks that wrote it.

        Raises `CheckpointError` if it belongs to another model or to other data.
        """
        self.last_checkpoint, manifest = resume_point.checkpoint, resume_point.manifest
        self.pending_warnings += resume_point.messages
        self._check_lockfile(read_lockfile(self.last_checkpoint, manifest))
        weights, training = (
            TensorReader(self.last_checkpoint, manifest, name, verified=True)
            for name in (WEIGHTS_FILE, TRAINING_STATE_FILE)
        )
        has_ema = EMA_WEIGHTS_FILE in manifest.logical_files
        ema_weights = TensorReader(self.last_checkpoint, manifest, EMA_WEIGHTS_FILE, verified=True) if has_ema else None
        try:
            self.engine.load_weights(weights, ema_weights, self.last_checkpoint)
            self.engine.load_training_state(training.with_prefix("engine"))
            self.mean_accumulator.load_state(training.with_prefix("means").read_all(), self.engine.device)
            self.collapse_detector.load_state(training.with_prefix("collapse").read_all())
        except (KeyError, ValueError, RuntimeError) as error:
            if is_connection_error(error):
                raise
            raise CheckpointError(f"{self.last_checkpoint}: holds no training state of this run ({error})") from error
        train_metrics = {name: value for name, value in manifest.metrics.items() if name.startswith("train/")}
        self.progress = Progress(
            manifest.step,
            manifest.seconds,
            {name: math.nan if value is None else value for name, value in train_metrics.items()},
            manifest.evaluated,
        )
        self._last_saved = (manifest.step, manifest.evaluated)

    def start(self) -> None:
        """Writes the files that a run folder has from the start, and reports that the run starts."""
        with self.comm.fail_together():
            if self.comm.is_rank_zero:
                self._write_initial_files()
        self.hooks.run_start(run=str(self.run_dir), recipe=self.recipe, num_parameters=self.num_parameters)
        for message in self.pending_warnings:
            self.warn(message)

    def _write_initial_files(self) -> None:
        target = self.run_dir / METRICS_FILE
        if self.last_checkpoint is None:
            # A metrics file may be left from a run that never wrote a checkpoint.
            target.unlink(missing_ok=True)
        else:
            source = (find_run_dir(self.last_checkpoint) or self.run_dir) / METRICS_FILE
            self.metrics_file.seconds_before = truncate_metrics(
                source, self.progress.step, target, self.progress.evaluated
            )
        atomic_write(self.run_dir / RECIPE_FILE, dump(self.recipe).encode())
        atomic_write(self.run_dir / LOCKFILE, (json.dumps(self.lockfile, indent=2) + "\n").encode())
        link_latest(self.run_dir)

    def warn(self, message: str) -> None:
        """Reports something that looks wrong to the listeners, and so to the log."""
        self.hooks.run_warning(step=self.progress.step, message=message)

    def state(self) -> ShardedState:
        """Returns what the next step needs in addition to the weights.

        The order of samples, the noise and the learning rate are functions of seed and step, and need no state.
        """
        states: dict[str, ShardedState] = {"engine": self.engine.training_state()}
        if self.comm.is_rank_zero:
            states |= {"means": self.mean_accumulator.state(), "collapse": self.collapse_detector.state()}
        return {f"{prefix}/{name}": value for prefix, state in states.items() for name, value in state.items()}

    def _check_lockfile(self, stored_lockfile: Mapping[str, Any]) -> None:
        """Rejects data that differ from the checkpoint's, and warns of code that differs and may round differently."""
        differences = compare_lockfiles(stored_lockfile, self.lockfile)
        if data := [difference for difference in differences if difference.startswith("data")]:
            message = f"{self.last_checkpoint}: was trained on different data ({data[0]}); restore that data to resume"
            raise CheckpointError(message)
        self.pending_warnings += [
            f"differs from when the checkpoint was saved, so the run may continue differently: {difference}"
            for difference in differences
        ]

    def run_to_end(self) -> dict[str, Any]:
        """Takes the remaining steps, evaluates, writes the last checkpoint, and returns the summary of the run.

        If anything fails, the last complete step is saved first where that is possible.
        """
        train_config = self.recipe.train
        with graceful_shutdown() as self._stop_request, self._save_and_explain_errors():
            self._evaluate_if_due()
            self._stop_if_requested()
            batches = iter_training_batches(self.sampler, self.progress.step, train_config.steps, train_config.workers)
            with closing(batches) as batch_stream:
                self._train(batch_stream)
            self._save()
        summary = {
            "run": str(self.run_dir),
            "checkpoint": str(self.last_checkpoint),
            "parameters": self.num_parameters,
            "seconds": round(self.progress.seconds, 2),
            "metrics": self.progress.metrics,
        }
        self.hooks.run_end(summary=summary)
        return summary

    @contextmanager
    def _save_and_explain_errors(self) -> Iterator[None]:
        """After an error inside, saves the last complete step, and adds to the message the step and how to resume."""
        try:
            yield
        except RunInterrupted:
            raise
        except RemoteRankError as error:
            if not error.is_file_error:
                raise
            message = f"step {self.progress.step}: {error}; {self._resume_hint()}"
            raise RemoteRankError(message, error.exit_code) from error
        except (Exception, SystemExit) as error:
            if is_connection_error(error):
                raise
            self._save_on_error()
            if explained := self._explain_error(error):
                raise explained from error
            raise

    def _explain_error(self, error: BaseException) -> NIError | None:
        """Returns an error with the step, the cause and what to do; None for an error that needs no explanation."""
        step = self.progress.step
        if isinstance(error, OSError):
            return RunError(f"step {step}: {format_os_error(error)}; {self._resume_hint()}")
        if is_out_of_memory(error):
            reason = str(error).partition("\n")[0]
            return FitError(f"step {step + 1}: does not fit this machine: {reason}; {MEMORY_HINT}")
        if problem := error.problems[0] if isinstance(error, PluginError) else attribute_error(error):
            message = f"step {step + 1}: {problem.message}"
            return PluginError([Problem(message, hint=f"{problem.hint}; {self._resume_hint()}")])
        return None

    def _train(self, batch_stream: Iterable[Batch]) -> None:
        """Takes all remaining steps."""
        begin = time.monotonic()
        self.straggler_detector.start_step()
        for batch in batch_stream:
            self._step(batch)
            self.progress.seconds += time.monotonic() - begin
            if slow := self.straggler_detector.check(self.progress.step):
                self.warn(slow)
            self._evaluate_if_due()
            is_last = self.progress.step >= self.recipe.train.steps
            if self.checkpoint_policy.is_due(self.progress.step) and not is_last:
                self._save()
            self._stop_if_requested()
            begin = time.monotonic()
            self.straggler_detector.start_step()

    def _step(self, batch: Batch) -> None:
        """Takes one step, and reports it."""
        train_config = self.recipe.train
        step = self.progress.step + 1
        should_log = step % train_config.log_every == 0 or step == train_config.steps
        result = self.engine.step(self.progress.step, batch, trace=should_log)
        self.progress.step, self.progress.evaluated = step, False
        if result.skip_reason is None:
            self.mean_accumulator.add(result.values)
        else:
            self._handle_skipped_step(result.skip_reason, batch)
        self.hooks.run_step(step=step, samples=train_config.batch, values=result.values)
        if should_log:
            self._log(result)

    def _handle_skipped_step(self, reason: str, batch: Batch) -> None:
        """Warns of a skipped step; raises `RunError` after too many in a row."""
        step, location = self.progress.step, self._locate_fault(batch)
        self.warn(f"step {step} was skipped: {reason}; {location}")
        consecutive = self.engine.guard.consecutive_skips
        if consecutive >= self.recipe.train.skip.max_consecutive:
            raise RunError(
                f"step {step}: {consecutive} steps in a row were skipped, the last because {reason}; {location}; "
                "lower train.optimizer.lr, set train.max_grad_norm, fix the data, or raise train.skip.max_consecutive"
            )

    def _locate_fault(self, batch: Batch) -> str:
        """Returns which samples a step was skipped for, and on which rank."""
        report = self.engine.find_nonfinite(batch)
        sample_indices = self.sampler.sample_indices(self.sampler.positions(self.progress.step - 1))
        rank_reports = self.comm.all_gather_json([report.origin is not None, report.describe(sample_indices)])
        if len(rank_reports) == 1:
            return rank_reports[0][1]
        ranks_at_fault = [rank for rank, (has_origin, _) in enumerate(rank_reports) if has_origin]
        ranks = ranks_at_fault or range(len(rank_reports))
        return "; ".join(f"in process {rank}: {rank_reports[rank][1]}" for rank in ranks)

    def _log(self, result: StepResult) -> None:
        """Reports the means since the last report, and the routing of the last micro-batch."""
        self.progress.metrics = {f"train/{name}": value for name, value in self.mean_accumulator.pop().items()}
        local_routing = routing_metrics(trace_from_output(result.output), result.micro_batch.mask)
        routing = self.comm.all_reduce_mean_dict(local_routing)
        learning_rate = {"lr": self.engine.lr_at(self.progress.step - 1)}
        self.hooks.run_log(step=self.progress.step, metrics=self.progress.metrics | routing | learning_rate)
        for alarm in self.collapse_detector.check(routing):
            self.warn(alarm)

    def _evaluate_if_due(self) -> None:
        """Evaluates after the last step and every `train.evaluate_every` steps, once for each."""
        step, every = self.progress.step, self.recipe.train.evaluate_every
        is_last = step == self.recipe.train.steps
        is_due = is_last or (every and step and step % every == 0)
        if not is_due or self.progress.evaluated or self._stop_exit_code:
            return
        with self.engine.inference() as model:
            try:
                metrics = evaluate_model(
                    model, self.test_split, self.engine.autocast(), self._is_stop_requested, self.comm
                )
            except EvaluationStopped:
                return
        self.progress.evaluated = True
        if is_last:
            self.progress.metrics |= metrics
        self.hooks.run_evaluation(step=step, metrics=metrics)

    def _save(self) -> None:
        """Writes a checkpoint unless the last one is of this step, and removes old ones."""
        progress = self.progress
        if self._last_saved == (progress.step, progress.evaluated):
            return
        with self.engine.inference() as model:
            golden = make_golden_batch(model)
        snapshot = Snapshot(
            weights=self.engine.weights(),
            ema_weights=self.engine.ema_weights(),
            training_state=self.state(),
            golden=golden,
            recipe=self.recipe,
            lockfile=self.lockfile,
            step=progress.step,
            seconds=progress.seconds,
            evaluated=progress.evaluated,
            checkpoint_every=self.checkpoint_policy.every,
            keep_last=self.checkpoint_policy.keep_last,
            metrics=progress.metrics,
        )
        path = checkpoint_dir(self.run_dir, progress.step, self.recipe.train.steps)
        self.last_checkpoint = save_checkpoint(path, snapshot, self.comm)
        with self.comm.fail_together():
            if self.comm.is_rank_zero:
                write_latest(self.last_checkpoint)
        self._last_saved = (progress.step, progress.evaluated)
        self.hooks.run_checkpoint(step=progress.step, checkpoint=str(self.last_checkpoint))
        self._prune_checkpoints()

    def _prune_checkpoints(self) -> None:
        keep_last = self.checkpoint_policy.keep_last
        if keep_last is None or not self.comm.is_rank_zero:
            return
        try:
            prune_checkpoints(self.run_dir, keep_last)
        except OSError as error:
            # Too many checkpoints are no reason to end a run.
            self.warn(f"an old checkpoint could not be removed: {format_os_error(error)}")

    def _stop_if_requested(self) -> None:
        """Saves and raises `RunInterrupted` if a rank was asked to stop, unless the run is complete."""
        is_complete = self.progress.step == self.recipe.train.steps and self.progress.evaluated
        if self._is_stop_requested() and not is_complete:
            self._save()
            message = f"interrupted after step {self.progress.step}; saved as {self.last_checkpoint}"
            hint = f"continue with ni train --resume {self.run_dir}"
            raise RunInterrupted(f"{message}; {hint}", self._stop_exit_code or 1)

    def _is_stop_requested(self) -> bool:
        """Returns whether any rank was asked to stop; all ranks call this at the same point, and get the same answer."""
        self._stop_exit_code = self.comm.all_reduce_max(self._stop_request.exit_code or 0) or None
        return self._stop_exit_code is not None

    def _save_on_error(self) -> None:
        """Tries to save the last complete step before an error is raised; a second error is dropped in favour of the first.

        One of several ranks cannot save alone.
        """
        if self.progress.step and not self.engine.is_updating and self.comm.world_size == 1:
            try:
                self._save()
            except Exception:
                return

    def _resume_hint(self) -> str:
        if self.last_checkpoint is None:
            return "nothing was saved yet; fix this and train again"
        return f"the last checkpoint is {self.last_checkpoint}; fix this and continue with ni train --resume {self.run_dir}"
