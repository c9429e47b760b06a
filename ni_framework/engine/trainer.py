"""Training, from a recipe to a run folder with a trained model. Read this first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ni_framework.contracts import Split
from ni_framework.engine.checkpoint import find_checkpoint, load_weights, read_manifest, save_checkpoint
from ni_framework.engine.evaluate import evaluate
from ni_framework.engine.interrupt import Interrupted, stop_requests
from ni_framework.engine.local import LocalEngine
from ni_framework.engine.metrics import Means, MetricsFile
from ni_framework.engine.order import Order
from ni_framework.engine.probe import probe
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
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is no folder; name another with --output")
    if (run / "checkpoints").exists():
        raise UsageError(f"{run}: holds a run already; name another folder with --output")
    splits = build_data(recipe).open()
    model = build_model(recipe, "cuda" if torch.cuda.is_available() else "cpu")
    if start is not None:
        folder = find_checkpoint(start)
        read_manifest(folder)
        load_weights(model, folder)
    engine = LocalEngine(model, recipe)
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    hook = run_events(MetricsFile(run / "metrics.jsonl"), *listeners).hook
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    hook.run_start(run=str(run), recipe=recipe, num_parameters=num_parameters)

    order = Order(splits["train"], recipe.train.batch, recipe.seed)
    probe(engine, order, hook)
    seconds, metrics, step = _steps(engine, order, splits["test"], recipe, run, hook, every)
    metrics |= evaluate(model, splits["test"], engine.autocast())
    hook.run_evaluation(step=step, metrics={name: value for name, value in metrics.items() if name.startswith("test/")})
    checkpoint = _save(engine, recipe, run, step, metrics, hook)
    summary = {
        "run": str(run),
        "checkpoint": str(checkpoint),
        "parameters": num_parameters,
        "seconds": round(seconds, 2),
        "metrics": metrics,
    }
    hook.run_end(summary=summary)
    return summary


def _steps(
    engine: LocalEngine, order: Order, test: Split, recipe: Recipe, run: Path, hook: Any, every: int | None
) -> tuple[float, dict[str, float], int]:
    """The steps themselves: seconds that they took, the last line of metrics, and how many there were."""
    settings, means, metrics = recipe.train, Means(), {}
    begin, paused = time.monotonic(), 0.0
    with stop_requests() as request:
        for step in range(1, settings.steps + 1):
            logs = step % settings.log_every == 0 or step == settings.steps
            done = engine.step(step - 1, order[step - 1], trace=logs)
            means.add(done.values)
            hook.run_step(step=step, samples=settings.batch, values=done.values)
            if logs:
                metrics = {f"train/{name}": value for name, value in means.take().items()}
                if not all(map(_finite, metrics.values())):
                    raise RunError(
                        f"step {step}: the training loss is no longer finite; lower train.optimizer.lr, or set train.clip"
                    )
                figures = routing_figures(trace_of(done.forward), done.batch.mask)
                hook.run_log(step=step, metrics=metrics | figures | {"lr": engine.optimizer.param_groups[0]["lr"]})
            pause = time.monotonic()
            if settings.evaluate_every and step % settings.evaluate_every == 0 and step < settings.steps:
                hook.run_evaluation(step=step, metrics=evaluate(engine.model, test, engine.autocast()))
            if every and step % every == 0 and step < settings.steps:
                _save(engine, recipe, run, step, metrics, hook)
            paused += time.monotonic() - pause
            if request.exit_code is not None:
                checkpoint = _save(engine, recipe, run, step, metrics, hook)
                raise Interrupted(f"interrupted after step {step}; saved as {checkpoint}", request.exit_code)
    return time.monotonic() - begin - paused, metrics, settings.steps


def _save(engine: LocalEngine, recipe: Recipe, run: Path, step: int, metrics: dict[str, float], hook: Any) -> Path:
    width = len(str(recipe.train.steps))
    checkpoint = save_checkpoint(run / "checkpoints" / f"step-{step:0{width}}", engine.model, recipe, step, metrics)
    hook.run_checkpoint(step=step, checkpoint=str(checkpoint))
    return checkpoint


def _finite(value: float) -> bool:
    return value - value == 0
