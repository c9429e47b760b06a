"""Checks of state: initial values, checkpoints, random numbers, attributes and buffers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy import ndarray as Array
from safetensors.torch import load, save
from torch import Tensor, nn

from ni_framework.nn.init import initialise_model
from ni_framework.testing.checks.check import MODULE_KINDS, conformance_check
from ni_framework.testing.failures import Failure, NotApplicable
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.compare import require_close_results
from ni_framework.testing.harness.invocation import call_component, make_invocation
from ni_framework.testing.sandbox.rng_state import rng_states

# Attributes of these types are searched for values that change.
CONTAINERS = (list, tuple, set, frozenset, deque)


@conformance_check(
    *MODULE_KINDS,
    why="every model is first built without memory, so that its size is known before training, and sharded training never "
    "has all of it in the memory of one rank",
    fix="give each module that owns parameters or buffers a reset_parameters that sets all of them, and do not choose a "
    "device for new tensors",
)
def meta(case: Case) -> None:
    """The component can be built on the meta device, and its reset_parameters set all parameters and buffers."""
    module = case.build_on_meta()
    for name, tensor in _parameters_and_buffers(module).items():
        if not tensor.is_meta:
            raise Failure(f"{name} is on {tensor.device} although the component was built on the meta device")
    for name, value in _collect_attributes(module).items():
        if isinstance(value, Tensor):
            raise Failure(
                f"{name} is a plain tensor, which does not move with the module: make it a buffer or a parameter"
            )
    with _fill_empty_with_nan():
        initialise_model(module, seed=0)
    for name, tensor in _parameters_and_buffers(module).items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Failure(f"{name} is not set by reset_parameters: its values are uninitialized memory")


@conformance_check(
    *MODULE_KINDS,
    why="two runs with the same seed must start alike, whatever else happens in the process",
    fix="draw initial values only in reset_parameters, with torch's own initializers",
)
def seeding(case: Case) -> None:
    """Initial values depend on the seed alone."""
    first, second = case.build_on_meta(), case.build_on_meta()
    initialise_model(first, seed=3)
    torch.rand(5)
    initialise_model(second, seed=3)
    for (name, before), after in zip(
        _parameters_and_buffers(first).items(), _parameters_and_buffers(second).values(), strict=True
    ):
        if not torch.equal(before, after):
            raise Failure(f"{name} has different initial values although the seed is the same")


@conformance_check(
    *MODULE_KINDS,
    why="a checkpoint contains state_dict() as safetensors; other state is lost, and the loaded model has different outputs",
    fix="keep all state in parameters and in persistent buffers",
)
def state_dict(case: Case) -> None:
    """Saved and loaded into a component with a different seed, the component has the same outputs."""
    module, other, invocation = case.build_perturbed(seed=0), case.build_perturbed(seed=1), make_invocation(case)
    before = call_component(module, invocation)
    other.load_state_dict(load(save({name: value.contiguous() for name, value in module.state_dict().items()})))
    require_close_results(
        before, call_component(other, invocation), "after its state_dict was loaded into another instance", tolerance=0
    )


@conformance_check(
    *MODULE_KINDS,
    why="a run that is interrupted and resumed must end like an uninterrupted one, whatever was drawn in between",
    fix="draw from `context.noise`, whose numbers depend only on seed, sample and position, never from torch's generator",
)
def repeatable(case: Case) -> None:
    """Two calls give the same results, in training and in evaluation, and do not use global random generators."""
    module, invocation = case.build_perturbed(), make_invocation(case)
    for training in (True, False):
        module.train(training)
        before = rng_states()
        first = call_component(module, invocation)
        if changed := [name for name, state in rng_states().items() if state != before[name]]:
            raise Failure(f"its forward draws from {changed[0]}")
        torch.rand(5)
        when = f"when called again in {'training' if training else 'evaluation'}"
        require_close_results(first, call_component(module, invocation), when, tolerance=0)


@conformance_check(
    *MODULE_KINDS,
    why="all iterations share one set of weights, and all ranks must run the same operations: values stored on `self` would "
    "leak from one call into the next",
    fix="return values that must be kept as `statistics`, which update_buffers receives",
)
def stateless(case: Case) -> None:
    """`forward` changes no attribute, parameter or buffer."""
    module, invocation = case.build_perturbed().train(), make_invocation(case)
    snapshot = _snapshot_attributes(module)
    values = {name: tensor.clone() for name, tensor in _parameters_and_buffers(module).items()}
    call_component(module, invocation)
    _require_unchanged(module, snapshot, "forward")
    for name, tensor in _parameters_and_buffers(module).items():
        if not torch.equal(tensor, values[name]):
            raise Failure(f"its forward changes {name}")


@conformance_check(
    "type_inference",
    "router",
    "body",
    "halting",
    why="a batch may be split over micro-batches and ranks, whose statistics are summed before update_buffers gets them",
    fix="return sums over samples and divide in update_buffers; return losses as scalars that are already weighted",
)
def aux_outputs(case: Case) -> None:
    """Losses are finite scalars, statistics are sums over samples, and update_buffers changes only buffers."""
    module, invocation = case.build_perturbed().train(), make_invocation(case, batch=4)
    result = call_component(module, invocation)
    for name, loss in result.aux_losses.items():
        if loss.ndim or not loss.isfinite():
            raise Failure(f"its loss `{name}` is not a finite scalar: {loss.detach()}")
    if not result.statistics:
        if not result.aux_losses:
            raise NotApplicable("it returns neither losses nor statistics")
        return
    halves = [
        call_component(module, invocation.with_indices("B", torch.arange(start, start + 2))).statistics
        for start in (0, 2)
    ]
    for name, value in result.statistics.items():
        if not torch.allclose(halves[0][name] + halves[1][name], value.to(halves[0][name]), rtol=1e-6, atol=1e-8):
            raise Failure(f"its statistic `{name}` of a batch is not the sum of those of its halves")
    parameters = {name: parameter.clone() for name, parameter in module.named_parameters()}
    snapshot = _snapshot_attributes(module)
    with torch.no_grad():
        module.update_buffers({name: value.detach() for name, value in result.statistics.items()})
    for name, parameter in module.named_parameters():
        if not torch.equal(parameter, parameters[name]):
            raise Failure(f"its update_buffers changes the parameter {name}, which only the optimizer may change")
    _require_unchanged(module, snapshot, "update_buffers")
    if bad := [name for name, buffer in module.named_buffers() if not buffer.isfinite().all()]:
        raise Failure(f"its update_buffers makes {bad[0]} not finite")


def _parameters_and_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _snapshot_attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Returns all attributes, with copies of tensors and arrays, whose values could be changed in place."""
    return {
        name: (
            value,
            value.clone() if isinstance(value, Tensor) else value.copy() if isinstance(value, Array) else None,
        )
        for name, value in _collect_attributes(module).items()
    }


def _require_unchanged(module: nn.Module, snapshot: dict[str, tuple[Any, Any]], method: str) -> None:
    now = _collect_attributes(module)
    for name, value in now.items():
        before, copy = snapshot.get(name, (None, None))
        if name not in snapshot or before is not value:
            raise Failure(f"its {method} stores something on {name}")
        if copy is not None and not (copy == value).all():
            raise Failure(f"its {method} changes {name} in place")
    if removed := [name for name in snapshot if name not in now]:
        raise Failure(f"its {method} removes {removed[0]}")


def _collect_attributes(module: nn.Module) -> dict[str, Any]:
    """Returns every attribute of every module except torch's own tables, and all items of its containers, by name."""
    attributes: dict[str, Any] = {}
    for path, submodule in module.named_modules():
        for name, value in vars(submodule).items():
            if not (name.startswith("_") and name in vars(nn.Module())):
                _collect_nested(attributes, ".".join(filter(None, ("self", path, name))), value, depth=4)
    return attributes


def _collect_nested(attributes: dict[str, Any], path: str, value: Any, depth: int) -> None:
    attributes[path] = value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, CONTAINERS) else ()
    for key, item in items if depth else ():
        _collect_nested(attributes, f"{path}[{key!r}]", item, depth - 1)


@contextmanager
def _fill_empty_with_nan() -> Iterator[None]:
    """Fills uninitialized tensors with NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # Its attributes have no type annotations.
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
