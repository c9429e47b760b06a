"""Checks of gradients."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.testing.checks.check import MODULE_KINDS, conformance_check
from ni_framework.testing.failures import Failure, NotApplicable
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import (
    CallResult,
    Invocation,
    call_component,
    compute_gradients,
    make_invocation,
    weighted_sum,
)


@conformance_check(
    *MODULE_KINDS,
    why="a parameter without a gradient is never trained, and without a gradient for the code all functions stay alike",
    fix="use every parameter in forward or remove it, and do not detach anything that should be trained",
)
def gradient(case: Case) -> None:
    """Every parameter, and the code if there is one, gets a gradient that is not zero."""
    module, invocation = case.build_perturbed().train(), make_invocation(case).with_gradients()
    result = call_component(module, invocation)
    gradients_by_name = compute_gradients(
        module,
        invocation,
        torch.stack([weighted_sum(result), *_collect_losses(case, module, invocation, result).values()]).sum(),
    )
    if case.kind == "linear" and module.prepare(invocation.inputs["code"]) is None:
        # The map is the same for all functions.
        del gradients_by_name["input code"]
    required = [name for name in gradients_by_name if not name.startswith("input ") or name == "input code"]
    if not required:
        raise NotApplicable("it has no parameters")
    for name in required:
        value = gradients_by_name[name]
        what = f"the {name.removeprefix('input ')}" if name == "input code" else f"its parameter {name}"
        if value is None:
            raise Failure(f"{what} gets no gradient")
        if not value.isfinite().all():
            raise Failure(f"{what} gets a gradient that is not finite")
        if not value.any():
            raise Failure(f"{what} gets a gradient of zero everywhere")


@conformance_check(
    *MODULE_KINDS,
    why="a function that takes no element on a rank must still be computed there: if a rank has no gradient for a weight, "
    "sharded training hangs or computes wrong gradients silently",
    fix="run all operations on tensors without rows as well, instead of returning early",
)
def no_open_pairs(case: Case) -> None:
    """Without samples, and without open pairs, results are empty or zero, and gradients are finite and not None."""
    module = case.build_perturbed().train()
    invocations = (
        {"no samples": make_invocation(case).with_indices("B", torch.arange(0))} if case.kind != "embedding" else {}
    )
    if case.kind in ("body", "linear"):
        invocation = make_invocation(case)
        all_closed = invocation.with_inputs(compatibility=torch.zeros_like(invocation.inputs["compatibility"]))
        invocations |= {
            f"no pair open, {name}": attrs.evolve(all_closed, layout=layout)
            for name, layout in {"dense": DensePairs, "packed": PackedPairs}.items()
        }
    if not invocations:
        raise NotApplicable("it takes no elements")
    for when, invocation in invocations.items():
        _check_without_elements(case, module, invocation.with_gradients(), when)


def _check_without_elements(case: Case, module: Any, invocation: Invocation, when: str) -> None:
    result = call_component(module, invocation)
    for name, value in result.results.items():
        if value.any():
            raise Failure(f"its {name} is not zero with {when}")
    losses = _collect_losses(case, module, invocation, result)
    for name, loss in losses.items():
        if not loss.isfinite():
            raise Failure(f"its loss `{name}` is {loss.item()} with {when}")
    total = torch.stack([weighted_sum(result), *(loss.to(torch.float64) for loss in losses.values())]).sum()
    for name, value in compute_gradients(module, invocation, total).items():
        if name.startswith("input "):
            continue
        if value is None:
            raise Failure(f"its parameter {name} gets no gradient (None) with {when}")
        if not value.isfinite().all():
            raise Failure(f"its parameter {name} gets a gradient that is not finite with {when}")
        # An auxiliary loss may depend on weights alone, and then has a gradient without elements.
        if value.any() and not losses:
            raise Failure(f"its parameter {name} gets a gradient that is not zero with {when}")


def _collect_losses(case: Case, module: Any, invocation: Invocation, result: CallResult) -> dict[str, Tensor]:
    """Returns the auxiliary losses of a call and, for a halting, its cost."""
    if case.kind != "halting":
        return dict(result.aux_losses)
    halt_BV = result.results["halt"]
    return {**result.aux_losses, **module.cost(torch.stack([halt_BV, invocation.inputs["remaining"] - halt_BV]), None)}
