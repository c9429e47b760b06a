"""Where gradients go."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.testing.checks.check import PARTS, check
from ni_framework.testing.failures import Excused, Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import Told, Trial, call, gradients, trial, weighted


@check(
    *PARTS,
    why="a parameter without gradient never learns, and a code without one makes all functions alike",
    fix="use every parameter in forward or leave it out, and let nothing detach what should learn",
)
def gradient(case: Case) -> None:
    """Every parameter, and the code where there is one, gets a gradient that is not zero."""
    module, of = case.built().train(), trial(case).with_gradients()
    told = call(module, of)
    found = gradients(module, of, torch.stack([weighted(told), *_losses(case, module, of, told).values()]).sum())
    if case.kind == "linear" and module.prepare(of.inputs["code"]) is None:
        del found["input code"]  # a map that is the same for all functions
    wanted = [name for name in found if not name.startswith("input ") or name == "input code"]
    if not wanted:
        raise Excused("it has no parameters")
    for name in wanted:
        value = found[name]
        what = f"the {name.removeprefix('input ')}" if name == "input code" else f"its parameter {name}"
        if value is None:
            raise Failure(f"{what} gets no gradient")
        if not value.isfinite().all():
            raise Failure(f"{what} gets a gradient that is not finite")
        if not value.any():
            raise Failure(f"{what} gets a gradient of zero everywhere")


@check(
    *PARTS,
    why="a function that takes no element in a process must still take part there: where one process has no gradient for a "
    "weight, sharded training hangs or goes wrong without a word",
    fix="let every path run on tensors without rows too, instead of returning early",
)
def closed(case: Case) -> None:
    """With no samples, and with no pair open, results are empty or zero, and gradients finite, not None."""
    module = case.built().train()
    cases = {"no samples": trial(case).indexed("B", torch.arange(0))} if case.kind != "embedding" else {}
    if case.kind in ("body", "linear"):
        of = trial(case)
        nothing = of.with_inputs(compatibility=torch.zeros_like(of.inputs["compatibility"]))
        cases |= {
            f"no pair open, {name}": attrs.evolve(nothing, layout=layout)
            for name, layout in {"dense": DensePairs, "packed": PackedPairs}.items()
        }
    if not cases:
        raise Excused("it takes no elements")
    for when, of in cases.items():
        _nothing(case, module, of.with_gradients(), when)


def _nothing(case: Case, module: Any, of: Trial, when: str) -> None:
    told = call(module, of)
    for name, value in told.results.items():
        if value.any():
            raise Failure(f"its {name} is not zero with {when}")
    losses = _losses(case, module, of, told)
    for name, loss in losses.items():
        if not loss.isfinite():
            raise Failure(f"its loss `{name}` is {loss.item()} with {when}")
    total = torch.stack([weighted(told), *(loss.to(torch.float64) for loss in losses.values())]).sum()
    for name, value in gradients(module, of, total).items():
        if name.startswith("input "):
            continue
        if value is None:
            raise Failure(f"its parameter {name} gets no gradient (None) with {when}")
        if not value.isfinite().all():
            raise Failure(f"its parameter {name} gets a gradient that is not finite with {when}")
        if value.any() and not losses:  # a loss may well be one of weights alone
            raise Failure(f"its parameter {name} gets a gradient that is not zero with {when}")


def _losses(case: Case, module: Any, of: Trial, told: Told) -> dict[str, Tensor]:
    """What is told beside the results, and the price of halting."""
    if case.kind != "halting":
        return dict(told.losses)
    halt_BV = told.results["halt"]
    return {**told.losses, **module.price(torch.stack([halt_BV, of.inputs["left"] - halt_BV]), None)}
