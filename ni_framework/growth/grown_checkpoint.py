"""Growth of checkpoints: the tensors and the run folder of a grown model, from a checkpoint of any engine and world size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from attrs import evolve
from torch import Tensor

from ni_framework.checkpoint.golden import make_golden_batch
from ni_framework.checkpoint.loaded_checkpoint import LoadedCheckpoint
from ni_framework.checkpoint.lockfile import build_lockfile
from ni_framework.checkpoint.manifest import LOCKFILE, RECIPE_FILE
from ni_framework.checkpoint.run_dir import checkpoint_dir, run_lock, write_latest
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.engines.step_guard import StepGuard
from ni_framework.errors import RunError, UsageError
from ni_framework.growth.initialize import WeightInitializer
from ni_framework.growth.plan import GrowthPlan
from ni_framework.growth.transplant import (
    FunctionRef,
    FunctionRows,
    find_old_name,
    infer_function_rows,
    transfer_weights,
)
from ni_framework.model.compose import build_data, build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace
from ni_framework.nn.random import rng_keys
from ni_framework.recipe import Recipe, dump
from ni_framework.registry import load_recipe_text
from ni_framework.training.metrics import MeanAccumulator
from ni_framework.utils.atomic_files import atomic_directory, list_staging_paths, write_new

_OPTIMIZER_PREFIX = "engine/optimizer/"
_EMA_COUNT_KEY = "engine/average/count"


class GrownTensors(NamedTuple):
    """The tensors of a grown checkpoint."""

    weights: dict[str, Tensor]
    ema_weights: dict[str, Tensor] | None
    training_state: dict[str, Tensor]


def grow_tensors(
    before: LoadedCheckpoint, plan: GrowthPlan, initializers: Sequence[WeightInitializer] = ()
) -> GrownTensors:
    """Computes the weights, EMA weights and training state of the grown model from those of a checkpoint.

    Old functions keep their rows and their optimizer moments. The state of the step guard, of the mean accumulators and of
    the collapse alarms starts again: it described another model, and perhaps other data.

    Args:
        before: the checkpoint.
        plan: the growth.
        initializers: set the values of added functions, one after the other.
    """
    old_rows, new_rows = infer_function_rows(before.recipe), infer_function_rows(plan.recipe)
    weights = _grow_weights(before, plan, old_rows, new_rows)
    for initialize in initializers:
        initialize(weights, new_rows)
    ema_weights = None
    if before.ema_weights is not None and plan.recipe.train.ema_decay:
        ema_weights = transfer_weights(before.ema_weights, old_rows, weights, new_rows, plan.origins)
    training_state = _grow_optimizer_state(before, plan, weights, old_rows, new_rows)
    if plan.recipe.train.ema_decay:
        training_state[_EMA_COUNT_KEY] = before.training_state.get(_EMA_COUNT_KEY, torch.tensor(0))
    return GrownTensors(weights, ema_weights, training_state | fresh_training_state(plan.recipe))


def _grow_weights(
    before: LoadedCheckpoint, plan: GrowthPlan, old_rows: FunctionRows, new_rows: FunctionRows
) -> dict[str, Tensor]:
    """Returns the old weights with new rows at their random initial values.

    If a part of the model is frozen from now on, the EMA weights become the weights: they compute the outputs, which would
    otherwise drift while the EMA approaches the frozen weights. The same holds if the EMA ends.
    """
    train = plan.recipe.train
    old_weights = before.weights if train.trainable is None and train.ema_decay else before.inference_weights
    initial = build_model(plan.recipe).state_dict()
    weights = transfer_weights(old_weights, old_rows, initial, new_rows, plan.origins)
    return {name: value.clone() for name, value in weights.items()}


def _grow_optimizer_state(
    before: LoadedCheckpoint,
    plan: GrowthPlan,
    weights: Mapping[str, Tensor],
    old_rows: FunctionRows,
    new_rows: FunctionRows,
) -> dict[str, Tensor]:
    """Returns the optimizer state of the grown model; the moments of new rows are 0.

    If any row is new, Adam's step count is reset. Otherwise bias correction would not cover the zero moments of the new rows,
    whose first hundred updates would be 3 to 6 times the learning rate. The updates of old rows are a little smaller for a few
    steps instead.
    """
    old_names = {name: find_old_name(name, old_rows, new_rows, plan.origins) for name in weights}
    old_sizes = {name: value.numel() for name, value in before.weights.items()}
    has_new_rows = any(weights[name].numel() > old_sizes.get(old or "", 0) for name, old in old_names.items())
    state: dict[str, Tensor] = {}
    for kind, moments in _optimizer_state_by_kind(before.training_state).items():
        kept = {name: moments[old] for name, old in old_names.items() if old in moments}
        zeros = {name: torch.zeros_like(weights[name]) for name, value in kept.items() if value.ndim}
        transferred = transfer_weights(moments, old_rows, zeros, new_rows, plan.origins)
        if kind == "step" and has_new_rows:
            kept = {name: torch.zeros_like(value) for name, value in kept.items()}
        state |= {f"{_OPTIMIZER_PREFIX}{kind}/{name}": transferred.get(name, value) for name, value in kept.items()}
    return state


def _optimizer_state_by_kind(training_state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns the optimizer state as {"exp_avg": {parameter name: tensor}, ...}, sorted by kind."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in training_state.items():
        if key.startswith(_OPTIMIZER_PREFIX):
            kind, _, name = key.removeprefix(_OPTIMIZER_PREFIX).partition("/")
            state.setdefault(kind, {})[name] = value
    return dict(sorted(state.items()))


def fresh_training_state(recipe: Recipe) -> dict[str, Tensor]:
    """Returns the training state of a run before its first step."""
    state = {f"engine/guard/{name}": value for name, value in StepGuard(recipe.train.skip).state().items()}
    return state | {f"means/{name}": value for name, value in MeanAccumulator().state().items()}


def finalize_recipe(
    before: LoadedCheckpoint, plan: GrowthPlan, overrides: Sequence[str] = (), trainable: tuple[str, ...] | None = None
) -> GrowthPlan:
    """Returns the plan with the final recipe: overrides applied, and the schedule starting again at this step.

    Args:
        before: the checkpoint that grows.
        plan: the growth.
        overrides: overrides of the recipe, as "train.steps=200".
        trainable: the new value of `train.trainable`.

    Raises:
        UsageError: an override changes another section than train, data or engine.
    """
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] not in ("train", "data", "engine"):
            raise UsageError(
                f"{override}: growth changes the model; apart from that, only train, data and engine may change here"
            )
    recipe = plan.recipe
    schedule = evolve(recipe.train.schedule, start_step=before.manifest.step)
    recipe = evolve(recipe, train=evolve(recipe.train, schedule=schedule, trainable=trainable))
    if recipe.model.tasks is None:
        recipe = evolve(recipe, model=evolve(recipe.model, tasks=dict(before.tasks)))
    return plan._replace(recipe=evolve(load_recipe_text(dump(recipe), overrides, "the grown recipe"), name=recipe.name))


class OutputDrift(NamedTuple):
    """The largest difference of a logit of the old tasks on the golden inputs."""

    # As in inference, in float32.
    computed: float
    # In float64, with all functions computed, as in training.
    exact: float


def save_grown_run(
    out: Path, before: LoadedCheckpoint, plan: GrowthPlan, tensors: GrownTensors, step: int
) -> tuple[Path, OutputDrift, dict[FunctionRef, float]]:
    """Writes a run folder with one checkpoint, atomically. Staging folders that a killed growth has left are removed.

    Args:
        out: the new run folder.
        before: the checkpoint that has grown.
        plan: the growth.
        tensors: the tensors of the new checkpoint.
        step: the step of the new checkpoint.

    Returns:
        The folder of the checkpoint, the change of the outputs, and for each added function the fraction of the elements of the
        golden batch that it would take.
    """
    recipe = plan.recipe
    model, old = build_model(recipe), before.build_inference_model()
    model.load_state_dict(tensors.ema_weights or tensors.weights)
    golden = make_golden_batch(model)
    drift = OutputDrift(
        _max_logit_difference(old, model, golden["inputs"]),
        _max_logit_difference(old, model, golden["inputs"], exact=True),
    )
    open_fractions = _open_fractions(model, plan, golden["inputs"])
    lock = _build_grown_lockfile(before, recipe)
    for stale in list_staging_paths(out):
        # If the lock is held, another growth is still writing there.
        with suppress(RunError), run_lock(stale):
            shutil.rmtree(stale, ignore_errors=True)
    with atomic_directory(out) as folder, run_lock(folder):
        snapshot = Snapshot(
            weights=tensors.weights,
            ema_weights=tensors.ema_weights,
            training_state=tensors.training_state,
            golden=golden,
            recipe=recipe,
            lockfile=lock,
            step=step,
            seconds=before.manifest.seconds,
            checkpoint_every=before.manifest.every,
            keep_last=before.manifest.keep,
        )
        place = save_checkpoint(checkpoint_dir(folder, step, max(recipe.train.steps, step)), snapshot)
        write_latest(place)
        write_new(folder / RECIPE_FILE, [dump(recipe).encode()])
        write_new(folder / LOCKFILE, [(json.dumps(lock, indent=2) + "\n").encode()])
    return out / place.relative_to(folder), drift, open_fractions


def _build_grown_lockfile(before: LoadedCheckpoint, recipe: Recipe) -> dict[str, Any]:
    """Builds the lockfile of the new checkpoint; the entry of unchanged data is copied, without reading the data again."""
    if recipe.data != before.recipe.data:
        return build_lockfile(recipe, build_data(recipe).open())
    lockfile = build_lockfile(recipe, None)
    return lockfile | {"data": before.lockfile["data"]} if "data" in before.lockfile else lockfile


def _max_logit_difference(old: Interpreter, new: Interpreter, inputs: Tensor, exact: bool = False) -> float:
    dtype = torch.float64 if exact else torch.float32
    tasks = [task for task in old.tasks if task in new.tasks]
    key_B = rng_keys(0, torch.arange(len(inputs)))
    outputs = []
    for model in (old, new):
        model.eval().to(dtype)
        with torch.set_grad_enabled(exact):
            outputs.append(model(inputs.to(dtype), tasks=tasks, key=key_B))
        model.float()
    before, now = outputs
    return max((before[task] - now[task]).abs().max().item() for task in tasks)


def _open_fractions(model: Interpreter, plan: GrowthPlan, inputs: Tensor) -> dict[FunctionRef, float]:
    """Returns the fraction of open pairs of each added function. With a gate of 1, its pool weight is its compatibility."""
    gates = [script.gates for script in model.scripts if script.gates is not None]
    saved = [gate.detach().clone() for gate in gates]
    with torch.no_grad():
        for gate in gates:
            gate.fill_(1)
        compatibility = trace(model, inputs).compatibility
        for gate, value in zip(gates, saved, strict=True):
            gate.copy_(value)
    return {
        function: _open_fraction(compatibility[function.script], function.number) for function in plan.new_functions
    }


def _open_fraction(compatibilities: Sequence[Tensor], function: int) -> float:
    """Returns the fraction of a function's pairs that are open, averaged over iterations with [B, U, V] each."""
    return torch.stack([(c_BUV[:, function] > 0).float().mean() for c_BUV in compatibilities]).mean().item()
