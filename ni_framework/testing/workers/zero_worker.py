"""The worker of the check `zero_parity`: each of two processes trains a model with and without DeepSpeed, and compares."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.checkpoint.shards import TensorShard
from ni_framework.contracts import Batch, Sizes
from ni_framework.distributed.communicator import is_connection_error
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.base import Engine
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.engines.deepspeed.setup import import_deepspeed
from ni_framework.engines.local import LocalEngine
from ni_framework.registry import file_plugins
from ni_framework.registry.discover import FILE_PLUGIN_PREFIX
from ni_framework.registry.resolve import reset_registry
from ni_framework.testing.checks.check import fault_location
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.small_model import (
    ALL,
    EVEN,
    NONE,
    ODD,
    build_small_model,
    make_random_batch,
    small_model_recipe,
)

PARITY_STAGES = 2, 3
# Which functions are open to the samples of rank 0 and of rank 1 in each step.
OPEN_GROUPS_BY_STEP = ((ALL, ALL), (EVEN, ODD), (ALL, NONE), (NONE, ALL))
SAMPLES_PER_RANK = 2
# Relative to the largest weight of a tensor, or absolute if that is smaller than 1.
PARITY_TOLERANCE = 1e-6
# All tensors are sharded, however small they are, and sent in small messages.
SHARDING_OVERRIDES = {
    2: "engine.deepspeed.zero_optimization={reduce_bucket_size: 1000}",
    3: "engine.deepspeed.zero_optimization={stage3_param_persistence_threshold: 0, reduce_bucket_size: 1000}",
}
# The environment of the last call.
_caller_environment: dict[str, Any] = {}


class ComponentRaised(Exception):
    """A component has raised an exception; the message describes it and its place in one line."""


def prepare_worker() -> None:
    """Connects to the other process and imports what training needs.

    DeepSpeed collects garbage often, so all objects that exist by then are excluded from collection to save time.
    """
    recipe = small_model_recipe(Case(None, fixed_sizes=Sizes(4, 1, 1, 1, None)), 2, 2, "engine.use=zero")
    init_process_group(recipe.engine)
    import_deepspeed(sys.stderr)
    gc.collect()
    gc.freeze()


def compare_zero_with_local(
    component: Mapping[str, str],
    options: Mapping[str, Any],
    sizes: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> list[dict[str, Any] | None]:
    """Trains a component with and without DeepSpeed, and returns the first difference at each stage, or None.

    Args:
        component: The module, the qualified name and the file of the class.
        options: The options of the component.
        sizes: The fields of `Sizes`.
        environment: The import path and the plugins of the calling process.
    """
    _load_caller_plugins(environment)
    cls = attrgetter(component["qualname"])(_import_component_module(component["module"], component["file"]))
    fixed_sizes = Sizes(**{**sizes, "grid": sizes["grid"] and tuple(sizes["grid"])})
    case = Case(cls, options, fixed_sizes)
    try:
        return _compare_stages(case)
    except Exception as error:
        message = f"raises {type(error).__name__}: {error}{fault_location(error, cls)}"
        raise ComponentRaised("" if is_connection_error(error) else message) from error


def _compare_stages(case: Case) -> list[dict[str, Any] | None]:
    num_samples = 2 * SAMPLES_PER_RANK
    recipe = small_model_recipe(case, num_samples, 2)
    model = build_small_model(case, recipe)
    batches = [
        make_random_batch(model, [group for group in groups for _ in range(SAMPLES_PER_RANK)], step)
        for step, groups in enumerate(OPEN_GROUPS_BY_STEP)
    ]
    local = LocalEngine(model, recipe)
    local.optimizer = _build_sgd(model)
    expected = [_step_and_collect(local, step, batch) for step, batch in enumerate(batches)]
    return [_first_difference(case, stage, batches, expected) for stage in PARITY_STAGES]


def _first_difference(
    case: Case, stage: int, batches: Sequence[Batch], expected: Sequence[dict[str, Tensor]]
) -> dict[str, Any] | None:
    recipe = small_model_recipe(
        case, 2 * SAMPLES_PER_RANK, 2, "engine.use=zero", f"engine.stage={stage}", SHARDING_OVERRIDES[stage]
    )
    communicator = init_process_group(recipe.engine)
    local_range = communicator.local_range(2 * SAMPLES_PER_RANK)
    zero_engine = ZeroEngine(
        recipe,
        communicator,
        lambda model, _: _build_sgd(model),
        build=lambda recipe, on_module_initialized=None: build_small_model(case, recipe, on_module_initialized),
    )
    first_difference = None
    try:
        # All steps run even after a difference, because the other process runs them, too.
        for step, batch in enumerate(batches):
            state = _step_and_collect(zero_engine, step, _select_rows(batch, local_range))
            if first_difference is None and (largest := _largest_difference(state, expected[step])):
                first_difference = {"stage": stage, "step": step, "what": largest[0], "difference": largest[1]}
    finally:
        zero_engine.close()
    return first_difference


def _step_and_collect(engine: Engine, step: int, batch: Batch) -> dict[str, Any]:
    """Runs a step, and returns the weights, buffers and values after it."""
    step_result = engine.step(step, batch, trace=False)
    if step_result.skip_reason is not None:
        raise ValueError(f"a model with it cannot be trained: {step_result.skip_reason}")
    state = dict(engine.weights()) | dict(engine.model.named_buffers())
    state = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    return state | {f"value `{name}`": value for name, value in step_result.values.items()}


def _largest_difference(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> tuple[str, float] | None:
    """Returns the name and the size of the largest difference; None if everything is equal up to rounding."""
    if unmatched := {name for name in state.keys() ^ expected.keys() if name.startswith("value ")}:
        return min(unmatched), float("nan")
    worst = None
    for name, value in state.items():
        full = expected[name].detach()
        expected_shard = full
        if isinstance(value, TensorShard):
            expected_shard = full.flatten()[value.start : value.start + len(value.values_P)]
            value = value.values_P
        if not value.numel():
            continue
        difference = (value.detach().double() - expected_shard.double()).abs().max().item()
        allowed = PARITY_TOLERANCE * max(1.0, full.abs().max().item())
        if not difference <= allowed and (worst is None or difference > worst[1]):
            worst = name, difference
    return worst


def _select_rows(batch: Batch, rows: range) -> Batch:
    index = torch.tensor(rows)
    assert batch.key is not None
    targets = {task: target[index] for task, target in batch.targets.items()}
    return batch._replace(inputs=batch.inputs[index], targets=targets, key=batch.key[index])


def _build_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Builds SGD. AdamW normalizes gradients, so the rounding error of a gradient of 0 would become a full update."""
    return torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)


def _load_caller_plugins(environment: Mapping[str, Any]) -> None:
    """Loads the plugins of the calling process. Plugin files are read again, because they may have changed."""
    previous = dict(_caller_environment)
    _caller_environment.update(environment)
    if previous == environment and not environment["files"]:
        return
    sys.path += [entry for entry in environment["path"] if entry not in sys.path]
    os.environ.pop("NI_PLUGINS", None)
    if environment["plugins"] is not None:
        os.environ["NI_PLUGINS"] = environment["plugins"]
    file_plugins.clear_plugin_files()
    for file in environment["files"]:
        file_plugins.add_plugin_file(file)
    reset_registry()


def _import_component_module(name: str, file: str) -> Any:
    """Imports a module by its name, or from its file if a different module has this name here."""
    if name.startswith(FILE_PLUGIN_PREFIX):
        return import_module(file_plugins.entries_in_file(Path(file))[0].module)
    try:
        module = import_module(name)
        if os.path.realpath(module.__file__ or "") == file:
            return module
    except ImportError:
        pass
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
