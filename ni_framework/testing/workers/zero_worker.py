"""What each of two processes does for the check of that name: trains a model with DeepSpeed and without, and compares."""

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

from ni_framework.checkpoint.shards import Piece
from ni_framework.contracts import Batch, Sizes
from ni_framework.distributed.communicator import lost
from ni_framework.distributed.rendezvous import join
from ni_framework.engines.base import Engine
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.engines.deepspeed.sharded_build import import_deepspeed
from ni_framework.engines.local import LocalEngine
from ni_framework.registry import file_plugins
from ni_framework.registry.discover import ONE_FILE
from ni_framework.registry.resolve import forget
from ni_framework.testing.checks.check import place
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.small_model import ALL, EVEN, NONE, ODD, recipe_of, samples, whole

STAGES = 2, 3
# Which functions are open to the samples of process 0 and of process 1 in each step.
STEPS = ((ALL, ALL), (EVEN, ODD), (ALL, NONE), (NONE, ALL))
SAMPLES = 2  # of each process
TOLERANCE = 1e-6  # of a weight, or of the largest one in its tensor
SPREAD = {  # everything is divided, and sent in small messages
    2: "engine.deepspeed.zero_optimization={reduce_bucket_size: 1000}",
    3: "engine.deepspeed.zero_optimization={stage3_param_persistence_threshold: 0, reduce_bucket_size: 1000}",
}
_environment: dict[str, Any] = {}  # of the process that asked last


class Raised(Exception):
    """What a component has raised, with its place, in a line."""


def ready() -> None:
    """Finds the other process, and imports what training needs, where DeepSpeed's collecting of garbage will not look."""
    recipe = recipe_of(Case(None, given=Sizes(4, 1, 1, 1, None)), 2, 2, "engine.use=zero")
    join(recipe.engine)
    import_deepspeed(sys.stderr)
    gc.collect()
    gc.freeze()


def compare(
    component: Mapping[str, str],
    options: Mapping[str, Any],
    sizes: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> list[dict[str, Any] | None]:
    """Where training with DeepSpeed first differs from training without, at each stage; None where it does not.

    `component` says where the class is found, and `environment` which plugins are there.
    """
    _settle(environment)
    cls = attrgetter(component["qualname"])(_module(component["module"], component["file"]))
    given = Sizes(**{**sizes, "grid": sizes["grid"] and tuple(sizes["grid"])})
    case = Case(cls, options, given)
    try:
        return _compare(case)
    except Exception as error:
        said = f"raises {type(error).__name__}: {error}{place(error, cls)}"
        raise Raised("" if lost(error) else said) from error


def _compare(case: Case) -> list[dict[str, Any] | None]:
    num_samples = 2 * SAMPLES
    recipe = recipe_of(case, num_samples, 2)
    model = whole(case, recipe)
    batches = [
        samples(model, [group for group in groups for _ in range(SAMPLES)], step) for step, groups in enumerate(STEPS)
    ]
    local = LocalEngine(model, recipe)
    local.optimizer = _descent(model)
    expected = [_taken(local, step, batch) for step, batch in enumerate(batches)]
    return [_first_fault(case, stage, batches, expected) for stage in STAGES]


def _first_fault(
    case: Case, stage: int, batches: Sequence[Batch], expected: Sequence[dict[str, Tensor]]
) -> dict[str, Any] | None:
    recipe = recipe_of(case, 2 * SAMPLES, 2, "engine.use=zero", f"engine.stage={stage}", SPREAD[stage])
    team = join(recipe.engine)
    share = team.share(2 * SAMPLES)
    zero = ZeroEngine(
        recipe,
        team,
        lambda model, _: _descent(model),
        build=lambda recipe, settle=None: whole(case, recipe, settle),
    )
    fault = None
    try:
        for step, batch in enumerate(batches):  # all of them in any case, as the other process does
            found = _taken(zero, step, _rows(batch, share))
            if fault is None and (differing := _largest(found, expected[step])):
                fault = {"stage": stage, "step": step, "what": differing[0], "difference": differing[1]}
    finally:
        zero.close()
    return fault


def _taken(engine: Engine, step: int, batch: Batch) -> dict[str, Any]:
    """The weights, buffers and values after a step."""
    taken = engine.step(step, batch, trace=False)
    if taken.fault is not None:
        raise ValueError(f"a model with it cannot be trained: {taken.fault}")
    found = dict(engine.weights()) | dict(engine.model.named_buffers())
    found = {name: value.clone() if isinstance(value, Tensor) else value for name, value in found.items()}
    return found | {f"value `{name}`": value for name, value in taken.values.items()}


def _largest(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> tuple[str, float] | None:
    """What differs most, and by how much; None if all is the same up to rounding."""
    if odd := {name for name in found.keys() ^ expected.keys() if name.startswith("value ")}:
        return min(odd), float("nan")
    worst = None
    for name, value in found.items():
        whole = expected[name].detach()
        there = whole
        if isinstance(value, Piece):
            there = whole.flatten()[value.start : value.start + len(value.part_P)]
            value = value.part_P
        if not value.numel():
            continue
        difference = (value.detach().double() - there.double()).abs().max().item()
        allowed = TOLERANCE * max(1.0, whole.abs().max().item())
        if not difference <= allowed and (worst is None or difference > worst[1]):
            worst = name, difference
    return worst


def _rows(batch: Batch, rows: range) -> Batch:
    index = torch.tensor(rows)
    assert batch.key is not None
    targets = {task: target[index] for task, target in batch.targets.items()}
    return batch._replace(inputs=batch.inputs[index], targets=targets, key=batch.key[index])


def _descent(model: nn.Module) -> torch.optim.Optimizer:
    """Steps in proportion to gradients: AdamW would make the rounding of a gradient that is zero as large as any other."""
    return torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)


def _settle(environment: Mapping[str, Any]) -> None:
    """The plugins of the process that asks; files are read anew, since they may have changed."""
    before = dict(_environment)
    _environment.update(environment)
    if before == environment and not environment["files"]:
        return
    sys.path += [entry for entry in environment["path"] if entry not in sys.path]
    os.environ.pop("NI_PLUGINS", None)
    if environment["plugins"] is not None:
        os.environ["NI_PLUGINS"] = environment["plugins"]
    file_plugins.forget_files()
    for file in environment["files"]:
        file_plugins.use_file(file)
    forget()


def _module(name: str, file: str) -> Any:
    """A module by its name, or if another one has that name here, from its file."""
    if name.startswith(ONE_FILE):
        return import_module(file_plugins.entries_in(Path(file))[0].module)
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
