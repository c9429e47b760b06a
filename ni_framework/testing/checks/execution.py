"""The ways in which a component is run: in both layouts, in half precision, without values, compiled."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.testing.checks.check import PARTS, check
from ni_framework.testing.failures import Excused, Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.compare import same
from ni_framework.testing.harness.invocation import Trial, call, call_with, gradients, trial, weighted


@check(
    "body",
    "linear",
    "router",
    why="`execution: packed` computes open pairs only and `auto` changes from one to the other: a model must not notice",
    fix="act on rows through `pairs` alone; a router whose closed pairs pass gradient says gradient_through_closed = True",
)
def layouts(case: Case) -> None:
    """Dense and packed give equal results and gradients; a router passes no gradient where it is closed, or says so."""
    if case.kind == "router":
        _closed_pass_nothing(case)
        return
    module, of = case.built().train(), trial(case).with_gradients()
    c_BUV = of.inputs["compatibility"].detach().clone()
    c_BUV[0, 1] = 0  # a function that takes nothing of a sample
    found = []
    for layout in (of.layout, PackedPairs):
        at = attrs.evolve(of.with_inputs(compatibility=c_BUV.clone().requires_grad_()), layout=layout)
        told = call(module, at)
        pooled = weighted(told) + torch.stack([*told.losses.values(), weighted(told) * 0]).sum()
        found.append((told, gradients(module, at, pooled)))
    (dense, dense_gradients), (packed, packed_gradients) = found
    same("its outcome", dense.results["outcome"], packed.results["outcome"])
    for what, one, other in (
        ("losses", dense.losses, packed.losses),
        ("statistics", dense.statistics, packed.statistics),
    ):
        if one.keys() != other.keys():
            raise Failure(f"it tells other {what} in the packed layout: {sorted(one)} and {sorted(other)}")
        for name in one:
            same(f"`{name}` of its {what}", one[name], other[name])
    for name, gradient in dense_gradients.items():
        same(f"the gradient of {name}", gradient, packed_gradients[name])


def _closed_pass_nothing(case: Case) -> None:
    module, of = case.built().train(), trial(case).with_gradients()
    if module.gradient_through_closed:
        raise Excused("its closed pairs pass gradient, and it says so: it runs in the dense layout only")
    c_BUV = call(module, of).results["compatibility"]
    if not c_BUV.requires_grad:
        return
    weight_BUV = torch.linspace(0.3, 2.7, c_BUV.numel(), dtype=c_BUV.dtype).cos().view_as(c_BUV)
    opened = gradients(module, of, (torch.where(c_BUV.detach() > 0, c_BUV, 0) * weight_BUV).sum())
    whole = gradients(module, of, (call(module, of).results["compatibility"] * weight_BUV).sum())
    for name, gradient in whole.items():
        same(f"the gradient of {name}, with closed pairs and without,", gradient, opened[name])


@check(
    *PARTS,
    why="`train.precision: bf16` runs the forward in bfloat16, whose numbers have three digits",
    fix="leave norms, exponentials and sums over many elements to torch's own operations, which autocast keeps in fp32",
)
def bf16(case: Case) -> None:
    """Under autocast to bfloat16, results and gradients are finite."""
    module, of = case.built().float().train(), trial(case).to(torch.float32).with_gradients()
    with torch.autocast("cpu", torch.bfloat16):
        told = call(module, of)
    for name, value in told.results.items():
        if not value.isfinite().all():
            raise Failure(f"its {name} is not finite")
    for name, gradient in gradients(module, of, weighted(told).float()).items():
        if gradient is not None and not gradient.isfinite().all():
            raise Failure(f"the gradient of {name} is not finite")


@check(
    *PARTS,
    why="planning, exporting and sharding trace a model without values: a branch on a tensor's value has none to look at",
    fix="choose by shapes or with torch.where; read no tensor with item(), tolist() or bool()",
)
def fake_tensor(case: Case) -> None:
    """It runs on tensors that have shapes and no values."""
    of = trial(case).to(torch.float32)
    with FakeTensorMode() as mode:
        module = case.made()
        fake = attrs.evolve(of, inputs={name: mode.from_tensor(value) for name, value in of.inputs.items()})
        found = call(module, fake)
    expected = call(case.built().float(), of)
    for name, value in found.results.items():
        if value.shape != expected.results[name].shape:
            raise Failure(
                f"its {name} is {list(value.shape)} without values, {list(expected.results[name].shape)} with them"
            )


@check(
    "type_inference",
    "router",
    "body",
    "halting",
    "linear",
    "input",
    "head",
    why="`engine.compile` hands components to torch.compile, and every graph break costs speed",
    fix="branch on nothing but configuration and shapes, and call no library that torch cannot trace",
)
def compile_(case: Case) -> None:
    """torch.compile takes it in one graph, and the results are equal."""
    module, of = case.built(), trial(case).still()
    expected = call(module, of)
    torch._dynamo.reset()
    try:
        compiled = torch.compile(_Calling(module, of), backend="eager", fullgraph=True)
        found = compiled(dict(of.inputs))
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise Failure(f"torch.compile cannot take it whole: {type(error).__name__}: {reason}") from error
    for name, value in found.items():
        same(f"its {name}", expected.results[name], value)


class _Calling(nn.Module):
    """A trial's call as a module of its inputs."""

    def __init__(self, module: nn.Module, of: Trial) -> None:
        super().__init__()
        self.module, self.of = module, of

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(call_with(self.module, self.of, inputs).results)
