"""Checks of requirements that apply to one kind of component only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ni_framework.contracts import Batch, Data
from ni_framework.errors import RunError
from ni_framework.nn.random import rng_keys
from ni_framework.testing.checks.check import conformance_check
from ni_framework.testing.failures import Failure, NotApplicable
from ni_framework.testing.harness.case import CASE_BATCH_SIZE, CASE_TASKS, Case
from ni_framework.testing.harness.invocation import call_component, make_invocation
from ni_framework.testing.sandbox.file_access import record_file_access
from ni_framework.testing.sandbox.rng_state import rng_states

# Samples of a split that are compared.
NUM_CHECKED_SAMPLES = 6


@conformance_check(
    "router",
    why="the state changes by sum_u c_ui (y_ui - x_i): a negative compatibility moves it away from the output of the function, "
    "a sum above 1 moves it beyond the outputs",
    fix="return 0 for closed pairs, and divide by the sum over functions, or set normalised = False",
)
def compatibilities(case: Case) -> None:
    """Compatibilities are not negative, and sum to at most 1 over functions if the router declares it."""
    module, invocation = case.build_perturbed(), make_invocation(case)
    present_BV = torch.arange(invocation.inputs["type"].shape[1]).expand(CASE_BATCH_SIZE, -1) % 3 != 2
    for training, present in itertools.product((False, True), (None, present_BV)):
        c_BUV = call_component(module.train(training), invocation.with_inputs(present=present)).results["compatibility"]
        if present is not None:
            c_BUV = torch.where(present[:, None], c_BUV, 0)
        if (c_BUV < 0).any() or not c_BUV.isfinite().all():
            raise Failure(f"its compatibilities range from {c_BUV.min().item():.2g} to {c_BUV.max().item():.2g}")
        largest_sum = c_BUV.sum(dim=1).max().item()
        if module.normalised and largest_sum > 1 + 1e-6:
            raise Failure(
                f"its compatibilities of an element sum to up to {largest_sum:.3g} over functions, but it is `normalised`"
            )


@conformance_check(
    "router",
    why="`ni grow` calls a router with the old functions alone, so that new functions change nothing at first",
    fix="use only the given signatures, or set supports_growth = False",
)
def subset_of_functions(case: Case) -> None:
    """The router can be called with the first functions alone."""
    module, invocation = case.build_perturbed(), make_invocation(case)
    if not module.supports_growth:
        raise NotApplicable("it declares supports_growth = False, so no function can be added")
    num_functions = invocation.inputs["signature"].shape[0]
    for first in range(1, num_functions):
        try:
            c_BUV = call_component(module, invocation.with_indices("U", torch.arange(first))).results["compatibility"]
        except Exception as error:
            raise Failure(
                f"called with {first} of {num_functions} functions, it fails: {type(error).__name__}: {error}"
            ) from error
        if c_BUV.shape[1] != first:
            raise Failure(
                f"called with {first} of {num_functions} functions, it returns compatibilities of {c_BUV.shape[1]}"
            )


@conformance_check(
    "halting",
    why="the output is the mean of states over the probabilities of halting, so they must be probabilities",
    fix="return a fraction of `remaining_BV`, between 0 and all of it",
)
def halts(case: Case) -> None:
    """Probabilities are between 0 and the remaining ones; costs are finite scalars with finite gradients, at 0 and 1, too."""
    module, invocation = case.build_perturbed(), make_invocation(case)
    halt_BV, remaining_BV = call_component(module, invocation).results["halt"], invocation.inputs["remaining"]
    if (halt_BV < 0).any() or (halt_BV > remaining_BV + 1e-9).any():
        raise Failure("its probabilities are not between 0 and `remaining_BV`")
    none_BV, all_BV = torch.zeros_like(remaining_BV), torch.ones_like(remaining_BV)
    for first, second in ((halt_BV, remaining_BV - halt_BV), (none_BV, all_BV), (all_BV, none_BV), (none_BV, none_BV)):
        halt_IBV = torch.stack([first, second]).detach().requires_grad_()
        for name, loss in module.cost(halt_IBV, None).items():
            if loss.ndim or not loss.isfinite():
                raise Failure(f"its cost `{name}` is not a finite scalar: {loss.detach()}")
            if not loss.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(loss, halt_IBV, allow_unused=True)
            if gradient is not None and not gradient.isfinite().all():
                raise Failure(
                    f"the gradient of its cost `{name}` is not finite where an element halts immediately or never"
                )


@conformance_check(
    "input",
    why="the rest of the model is built from these numbers before there is any input",
    fix="set shape, num_elements and grid in __init__; rows times columns of the grid must be num_elements",
)
def declared_shape(case: Case) -> None:
    """The shape is a tuple of integers, and the grid has as many positions as there are elements."""
    module = case.instantiate()
    if not isinstance(module.shape, tuple) or not all(isinstance(size, int) for size in module.shape):
        raise Failure(f"its shape is {module.shape!r}, not a tuple of integers")
    if module.grid is not None and module.grid[0] * module.grid[1] != module.num_elements:
        raise Failure(f"its grid {module.grid} does not have the size of its {module.num_elements} elements")


@conformance_check(
    "head",
    why="a model may be called for some of its tasks, in any order, and the losses of samples are weighted one by one",
    fix="read CLS elements in the order of `tasks`, and return losses and metrics of shape [B]",
)
def tasks(case: Case) -> None:
    """Tasks can be requested one by one, and the loss and metrics of a sample depend on this sample alone."""
    module, invocation = case.build_perturbed(), make_invocation(case)
    for requested in (("colour",), ("colour", "shape")):
        cls_LD, count = module.cls_tokens(requested)
        if cls_LD.ndim != 2 or cls_LD.shape[1] != case.sizes.width or count < 1:
            raise Failure(
                f"its cls_tokens returns {list(cls_LD.shape)} with multiplicity {count} for the tasks {list(requested)}"
            )
        x_BVD = torch.cat([cls_LD.expand(CASE_BATCH_SIZE, -1, -1), invocation.inputs["x"]], dim=1)
        logits_by_task = module(x_BVD, None, requested)
        if list(logits_by_task) != list(requested):
            raise Failure(f"called for the tasks {list(requested)}, it returns {list(logits_by_task)}")
        for task, logits in logits_by_task.items():
            _require_loss_per_sample(module, task, logits)


def _require_loss_per_sample(head: Any, task: str, logits: torch.Tensor) -> None:
    """Requires a loss and metrics for each sample, which do not change when the target of another sample does."""
    target = torch.arange(CASE_BATCH_SIZE) % CASE_TASKS[task]
    other_target = torch.where(torch.arange(CASE_BATCH_SIZE) == 0, (target + 1) % CASE_TASKS[task], target)
    values = {"loss": head.loss(logits, target)} | head.metrics(logits, target)
    for name, value in values.items():
        if list(value.shape) != [CASE_BATCH_SIZE] or not value.isfinite().all():
            raise Failure(
                f"its {name} of a batch of {CASE_BATCH_SIZE} has the shape {list(value.shape)}; "
                "it must be one finite number for each sample"
            )
    changed_values = {"loss": head.loss(logits, other_target)} | head.metrics(logits, other_target)
    for name, value in changed_values.items():
        if not torch.allclose(value[1:], values[name][1:], rtol=1e-9):
            raise Failure(f"its {name} of a sample changes when the target of another sample does")


@conformance_check(
    "data",
    why="models are built, shown and measured on machines that do not have the data",
    fix="set shape and tasks from the options in __init__, and open files only in open()",
    needs_call=False,
)
def lazy_data(case: Case) -> None:
    """Shape and tasks are available before any file is opened."""
    assert case.config
    touched: list[str] = []
    try:
        with record_file_access(touched):
            data = case.instantiate()
    finally:
        if touched:
            raise Failure(f"it {touched[0]} although only its shape and tasks are needed")
    if not all(isinstance(size, int) and size > 0 for size in data.shape):
        raise Failure(f"its shape is {data.shape!r}, not a tuple of integers")
    if not data.tasks or not all(isinstance(classes, int) and classes > 0 for classes in data.tasks.values()):
        raise Failure(f"its tasks are {data.tasks!r}, not a mapping from names to numbers of classes")


@conformance_check(
    "data",
    why="a run must not depend on the number of workers or ranks, and must continue after an interruption as if there had been "
    "none",
    fix="let a sample depend only on its index and its key: draw with nn.random from `key_B`",
)
def samples(case: Case) -> None:
    """Samples have the declared shape and tasks, and depend only on their own index and key."""
    data: Data = case.instantiate()
    try:
        splits = data.open()
    except RunError as error:
        raise NotApplicable(f"its files are not available ({error})") from error
    if missing := {"train", "test"} - splits.keys():
        raise Failure(f"it has no split called {sorted(missing)[0]!r}")
    for split_name, split in splits.items():
        index_B = torch.arange(NUM_CHECKED_SAMPLES) * max(len(split) // NUM_CHECKED_SAMPLES, 1) % len(split)
        for key_B in (None, rng_keys(0, index_B)):
            before = rng_states()
            batch = split.batch(index_B, key_B)
            if changed := [name for name, state in rng_states().items() if state != before[name]]:
                raise Failure(f"a batch of {split_name} draws from {changed[0]}")
            _require_declared_batch(data, batch.inputs, batch.targets, split_name)
            order = torch.arange(NUM_CHECKED_SAMPLES).flip(0)
            again = split.batch(index_B[order], None if key_B is None else key_B[order])
            _require_reordered(batch, again, order, split_name)


def _require_reordered(batch: Batch, again: Batch, order: torch.Tensor, split_name: str) -> None:
    """Requires that `again` contains the samples of `batch` in another order: inputs, targets, mask and everything else."""
    first, second = (dict(_iterate_tensors(values._asdict())) for values in (batch, again))
    if first.keys() != second.keys():
        raise Failure(f"a batch of {split_name} has different entries when its samples are in a different order")
    for name, value in first.items():
        if not torch.equal(second[name], value[order]):
            entry = "" if name == "inputs" else f" ({name})"
            raise Failure(f"a sample of {split_name} depends on the other samples in its batch{entry}")


def _iterate_tensors(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value.nan_to_num() if value.is_floating_point() else value
        elif isinstance(value, Mapping):
            yield from _iterate_tensors(value, f"{prefix}{name} ")


def _require_declared_batch(
    data: Data, inputs: torch.Tensor, targets: Mapping[str, torch.Tensor], split_name: str
) -> None:
    if tuple(inputs.shape[1:]) != tuple(data.shape) or not inputs.is_floating_point():
        raise Failure(
            f"inputs of {split_name} are {inputs.dtype} {list(inputs.shape[1:])}, but it declares {list(data.shape)}"
        )
    if set(targets) != set(data.tasks):
        raise Failure(
            f"targets of {split_name} are of the tasks {sorted(targets)}, but it declares {sorted(data.tasks)}"
        )
    for task, target in targets.items():
        if target.is_floating_point():
            _require_real_targets(target, (len(inputs), data.tasks[task]), f"targets of {split_name}, {task},")
            continue
        low, high, classes = target.min(), target.max(), data.tasks[task]
        if len(target) != len(inputs) or low < 0 or high >= classes:
            raise Failure(f"targets of {split_name}, {task}, range from {low} to {high}, but it has {classes} classes")


def _require_real_targets(target: torch.Tensor, shape: tuple[int, int], what: str) -> None:
    """Requires finite numbers [B, outputs]; for one output, the shape [B] is allowed, too."""
    if tuple(target.shape) not in (shape, shape[:1] if shape[1] == 1 else shape):
        raise Failure(f"{what} have the shape {list(target.shape)}, but it declares {shape[1]} for each of {shape[0]}")
    if not target.isfinite().all():
        raise Failure(f"{what} are not all finite")
