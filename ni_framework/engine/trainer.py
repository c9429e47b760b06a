"""Training, from a recipe to a run folder with a trained model. Read this first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ni_framework.contracts import Split
from ni_framework.engine.checkpoint import (
    TRAINING,
    find_checkpoint,
    load_weights,
    read_manifest,
    read_tensors,
    save_checkpoint,
)
from ni_framework.engine.evaluate import evaluate
from ni_framework.engine.interrupt import Interrupted, stop_requests
from ni_framework.engine.local import LocalEngine
from ni_framework.engine.metrics import Means, MetricsFile, keep_lines
from ni_framework.engine.order import Order
from ni_framework.engine.probe import probe
from ni_framework.engine.resume import Resumption
from ni_framework.errors import RunError, UsageError
from ni_framework.model.compose import build_data, build_model
from ni_framework.model.figures import routing_figures
from ni_framework.model.trace import trace_of
from ni_framework.recipe import Recipe, dump
from ni_framework.registry.hooks import run_events


def train(
    recipe: Recipe, run: Path, *, every: int | None = None, start: str | None = None, listeners: Sequence[object] = ()
) -> dict[str, Any]:
    """Trains a recipe's model in the folder `run`, and returns the summary that `ni train --json` prints.

    `every` is the number of steps between checkpoints (one is always written at the end), `start` a checkpoint whose weights
    the model begins with, `listeners` hear the run's events. Raises `RunError` where the run fails.
    """
    check_new(run)
    splits = build_data(recipe).open()
    engine = _engine(recipe)
    if start is not None:
        folder = find_checkpoint(start)
        read_manifest(folder)
        load_weights(engine.model, folder)
    training = Training(engine, recipe, splits, run, every, listeners)
    probe(engine, training.order, training.hook)
    return training.finish()


def resume(
    resumption: Resumption, run: Path, *, every: int | None = None, listeners: Sequence[object] = ()
) -> dict[str, Any]:
    """Goes on from a checkpoint in the folder `run`, its own or a new one; what follows is what would have followed.

    On the CPU to the last bit: weights, optimizer, metrics.
    """
    if run != resumption.run:
        check_new(run)
    recipe, checkpoint = resumption.recipe, resumption.checkpoint
    splits = build_data(recipe).open()
    engine = _engine(recipe)
    load_weights(engine.model, checkpoint)
    training = Training(engine, recipe, splits, run, every, listeners, resumption)
    training.load(read_tensors(checkpoint, TRAINING))
    for message in resumption.damaged:
        training.hook.run_warning(step=resumption.step, message=f"passed over a damaged checkpoint: {message}")
    return training.finish()


def check_new(run: Path) -> None:
    """Raises `UsageError` for a folder that cannot become a new run."""
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is no folder; name another with --output")
    if (run / "checkpoints").exists():
        raise UsageError(f"{run}: holds a run already; name another folder with --output")


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
        listeners: Sequence[object],
        resumption: Resumption | None = None,
    ) -> None:
        self.engine, self.recipe, self.run, self.every = engine, recipe, run, every
        self.order, self.test = Order(splits["train"], recipe.train.batch, recipe.seed), splits["test"]
        self.step, self.seconds, self.metrics = 0, 0.0, {}
        self.means = Means()
        run.mkdir(parents=True, exist_ok=True)
        if resumption is not None:
            self.step, self.seconds, self.metrics = resumption.step, resumption.seconds, resumption.metrics
            if resumption.run is not None:
                keep_lines(resumption.run / "metrics.jsonl", self.step, run / "metrics.jsonl")
        (run / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")
        self.hook = run_events(MetricsFile(run / "metrics.jsonl", self.seconds), *listeners).hook
        self.num_parameters = sum(parameter.numel() for parameter in engine.model.parameters())
        self.hook.run_start(run=str(run), recipe=recipe, num_parameters=self.num_parameters)

    def state(self) -> dict[str, Tensor]:
        """What the next step needs beside the weights; order, noise and learning rate are functions of seed and step."""
        engine = {f"engine/{name}": value for name, value in self.engine.training_state().items()}
        return engine | {f"means/{name}": value for name, value in self.means.state().items()}

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned."""
        parts: dict[str, dict[str, Tensor]] = {"engine": {}, "means": {}}
        for key, value in stored.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        self.engine.load_training_state(parts["engine"])
        self.means.load_state(parts["means"], self.engine.device)

    def finish(self) -> dict[str, Any]:
        """The steps that are left, evaluation, the last checkpoint, and the summary of it all."""
        self._steps()
        try:
            self.metrics |= evaluate(self.engine.model, self.test, self.engine.autocast())
        except Exception:  # a file of the held-out part that cannot be read, say: what was trained is not lost
            self._save()
            raise
        tests = {name: value for name, value in self.metrics.items() if name.startswith("test/")}
        self.hook.run_evaluation(step=self.step, metrics=tests)
        summary = {
            "run": str(self.run),
            "checkpoint": str(self._save()),
            "parameters": self.num_parameters,
            "seconds": round(self.seconds, 2),
            "metrics": self.metrics,
        }
        self.hook.run_end(summary=summary)
        return summary

    def _steps(self) -> None:
        settings = self.recipe.train
        with stop_requests() as request:
            while self.step < settings.steps:
                begin = time.monotonic()
                self.step += 1
                logs = self.step % settings.log_every == 0 or self.step == settings.steps
                done = self.engine.step(self.step - 1, self.order[self.step - 1], trace=logs)
                self.means.add(done.values)
                self.hook.run_step(step=self.step, samples=settings.batch, values=done.values)
                if logs:
                    self._log(routing_figures(trace_of(done.forward), done.batch.mask))
                self.seconds += time.monotonic() - begin
                last = self.step == settings.steps
                if settings.evaluate_every and self.step % settings.evaluate_every == 0 and not last:
                    metrics = evaluate(self.engine.model, self.test, self.engine.autocast())
                    self.hook.run_evaluation(step=self.step, metrics=metrics)
                if self.every and self.step % self.every == 0 and not last:
                    self._save()
                if request.exit_code is not None:
                    saved = f"interrupted after step {self.step}; saved as {self._save()}"
                    raise Interrupted(f"{saved}; go on with ni train --resume {self.run}", request.exit_code)

    def _log(self, figures: dict[str, float]) -> None:
        self.metrics = {f"train/{name}": value for name, value in self.means.take().items()}
        if not all(map(_finite, self.metrics.values())):
            raise RunError(
                f"step {self.step}: the training loss is no longer finite; lower train.optimizer.lr, or set train.clip"
            )
        rate = {"lr": self.engine.optimizer.param_groups[0]["lr"]}
        self.hook.run_log(step=self.step, metrics=self.metrics | figures | rate)

    def _save(self) -> Path:
        place = self.run / "checkpoints" / f"step-{self.step:0{len(str(self.recipe.train.steps))}}"
        checkpoint = save_checkpoint(
            place, self.engine.model, self.recipe, self.step, self.metrics, self.state(), self.seconds
        )
        self.hook.run_checkpoint(step=self.step, checkpoint=str(checkpoint))
        return checkpoint


def _finite(value: float) -> bool:
    return value - value == 0
