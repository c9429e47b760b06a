"""Where a component's values come from and where they go: initial values, checkpoints, random numbers, state."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy import ndarray as Array
from safetensors.torch import load, save
from torch import Tensor, nn

from ni_framework.nn.init import initialise
from ni_framework.testing.checks.check import PARTS, check
from ni_framework.testing.failures import Excused, Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.compare import same_results
from ni_framework.testing.harness.invocation import call, trial
from ni_framework.testing.sandbox.rng_state import generators

CONTAINERS = (list, tuple, set, frozenset, deque)


@check(
    *PARTS,
    why="every model is built without memory first, which is how its size is known before it is trained, and sharded training "
    "never holds it whole",
    fix="let each module that owns parameters or buffers have a reset_parameters that sets all of them, and make no "
    "tensor on a device of your own choice",
)
def meta(case: Case) -> None:
    """It builds on the meta device, and its reset_parameters fill all of it, whatever the memory held."""
    module = case.on_meta()
    for name, tensor in _tensors(module).items():
        if not tensor.is_meta:
            raise Failure(f"{name} is on {tensor.device} although the component was built on the meta device")
    for name, value in _attributes(module).items():
        if isinstance(value, Tensor):
            raise Failure(
                f"{name} is a plain tensor, which does not follow the module: make it a buffer or a parameter"
            )
    with _empty_is_nan():
        initialise(module, seed=0)
    for name, tensor in _tensors(module).items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Failure(f"{name} is not set by reset_parameters: it holds whatever the memory held")


@check(
    *PARTS,
    why="two runs with one seed must begin alike, whatever else is in the process",
    fix="draw initial values in reset_parameters with torch's own initialisers, and nowhere else",
)
def seeded(case: Case) -> None:
    """Initial values are a function of the seed."""
    first, second = case.on_meta(), case.on_meta()
    initialise(first, seed=3)
    torch.rand(5)
    initialise(second, seed=3)
    for (name, before), after in zip(_tensors(first).items(), _tensors(second).values(), strict=True):
        if not torch.equal(before, after):
            raise Failure(f"{name} begins with other values although the seed is the same")


@check(
    *PARTS,
    why="a checkpoint holds state_dict() as safetensors; what is not in it is lost, and the model answers otherwise",
    fix="keep state in parameters and in buffers that are persistent",
)
def state_dict(case: Case) -> None:
    """Saved, and loaded into a component of another seed, it answers as before."""
    module, other, of = case.built(seed=0), case.built(seed=1), trial(case)
    before = call(module, of)
    other.load_state_dict(load(save({name: value.contiguous() for name, value in module.state_dict().items()})))
    same_results(before, call(other, of), "after its state_dict was loaded into another instance", tolerance=0)


@check(
    *PARTS,
    why="a run that is interrupted and goes on must end like one that was not, whatever was drawn meanwhile",
    fix="draw from `context.noise`, whose numbers are functions of seed, sample and place, never from torch's generator",
)
def repeatable(case: Case) -> None:
    """In training and in evaluation two calls give the same, and no global generator moves."""
    module, of = case.built(), trial(case)
    for training in (True, False):
        module.train(training)
        before = generators()
        first = call(module, of)
        if moved := [name for name, state in generators().items() if state != before[name]]:
            raise Failure(f"its forward draws from {moved[0]}")
        torch.rand(5)
        when = f"when called again in {'training' if training else 'evaluation'}"
        same_results(first, call(module, of), when, tolerance=0)


@check(
    *PARTS,
    why="one set of weights serves all iterations, and several processes must run the same operations: what is kept on `self` "
    "leaks from one call into the next",
    fix="return what has to be remembered, as `statistics` for absorb",
)
def stateless(case: Case) -> None:
    """A forward leaves attributes, parameters and buffers as they were."""
    module, of = case.built().train(), trial(case)
    kept = _kept(module)
    values = {name: tensor.clone() for name, tensor in _tensors(module).items()}
    call(module, of)
    _unchanged(module, kept, "forward")
    for name, tensor in _tensors(module).items():
        if not torch.equal(tensor, values[name]):
            raise Failure(f"its forward changes {name}")


@check(
    "type_inference",
    "router",
    "body",
    "halting",
    why="a batch may be divided over accumulated parts and processes, whose statistics are added up before absorb sees them",
    fix="return sums over samples and divide in absorb; return losses as scalars, already weighted",
)
def told(case: Case) -> None:
    """Losses are finite scalars, statistics add up over samples, and absorb alone changes buffers."""
    module, of = case.built().train(), trial(case, batch=4)
    answer = call(module, of)
    for name, loss in answer.losses.items():
        if loss.ndim or not loss.isfinite():
            raise Failure(f"its loss `{name}` is no finite scalar: {loss.detach()}")
    if not answer.statistics:
        if not answer.losses:
            raise Excused("it tells nothing beside its result")
        return
    halves = [call(module, of.indexed("B", torch.arange(start, start + 2))).statistics for start in (0, 2)]
    for name, value in answer.statistics.items():
        if not torch.allclose(halves[0][name] + halves[1][name], value.to(halves[0][name]), rtol=1e-6, atol=1e-8):
            raise Failure(f"its statistic `{name}` of a batch is not the sum of those of its halves")
    parameters, kept = {name: of.clone() for name, of in module.named_parameters()}, _kept(module)
    with torch.no_grad():
        module.absorb({name: value.detach() for name, value in answer.statistics.items()})
    for name, parameter in module.named_parameters():
        if not torch.equal(parameter, parameters[name]):
            raise Failure(f"its absorb changes the parameter {name}, which is the optimizer's")
    _unchanged(module, kept, "absorb")
    if bad := [name for name, buffer in module.named_buffers() if not buffer.isfinite().all()]:
        raise Failure(f"its absorb leaves {bad[0]} not finite")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _kept(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Its attributes, with copies of those whose numbers could be changed in place."""
    return {
        name: (
            value,
            value.clone() if isinstance(value, Tensor) else value.copy() if isinstance(value, Array) else None,
        )
        for name, value in _attributes(module).items()
    }


def _unchanged(module: nn.Module, kept: dict[str, tuple[Any, Any]], method: str) -> None:
    now = _attributes(module)
    for name, value in now.items():
        before, copy = kept.get(name, (None, None))
        if name not in kept or before is not value:
            raise Failure(f"its {method} stores something on {name}")
        if copy is not None and not (copy == value).all():
            raise Failure(f"its {method} changes {name} in place")
    if gone := [name for name in kept if name not in now]:
        raise Failure(f"its {method} takes {gone[0]} away")


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Every attribute of every module but for torch's own tables, and everything in its containers, by name."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if not (name.startswith("_") and name in vars(nn.Module())):
                _collect(found, ".".join(filter(None, ("self", path, name))), value, depth=4)
    return found


def _collect(found: dict[str, Any], place: str, value: Any, depth: int) -> None:
    found[place] = value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, CONTAINERS) else ()
    for key, item in items if depth else ():
        _collect(found, f"{place}[{key!r}]", item, depth - 1)


@contextmanager
def _empty_is_nan() -> Iterator[None]:
    """Memory that is asked for holds NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # whose attributes no type checker knows
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
