"""Checks of execution: in both layouts, in half precision, on fake tensors, compiled."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.testing.checks.check import MODULE_KINDS, conformance_check
from ni_framework.testing.failures import Failure, NotApplicable
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.compare import require_close
from ni_framework.testing.harness.invocation import (
    Invocation,
    call_component,
    call_component_with,
    compute_gradients,
    make_invocation,
    weighted_sum,
)


@conformance_check(
    "body",
    "linear",
    "router",
    why="`execution: packed` computes only open pairs, and `auto` switches between layouts: results must not depend on it",
    fix="combine rows only through `pairs`; a router whose closed pairs pass gradient sets straight_through = True",
)
def layouts(case: Case) -> None:
    """Both layouts give equal results and gradients; a router passes no gradient through closed pairs, or declares it."""
    if case.kind == "router":
        _require_no_gradient_through_closed(case)
        return
    module, invocation = case.build_perturbed().train(), make_invocation(case).with_gradients()
    c_BUV = invocation.inputs["compatibility"].detach().clone()
    # One function takes no element of one sample.
    c_BUV[0, 1] = 0
    results = []
    for layout in (invocation.layout, PackedPairs):
        layout_invocation = attrs.evolve(
            invocation.with_inputs(compatibility=c_BUV.clone().requires_grad_()), layout=layout
        )
        result = call_component(module, layout_invocation)
        total = weighted_sum(result) + torch.stack([*result.aux_losses.values(), weighted_sum(result) * 0]).sum()
        results.append((result, compute_gradients(module, layout_invocation, total)))
    (dense, dense_gradients), (packed, packed_gradients) = results
    require_close("its output", dense.results["output"], packed.results["output"])
    for what, dense_values, packed_values in (
        ("losses", dense.aux_losses, packed.aux_losses),
        ("statistics", dense.statistics, packed.statistics),
    ):
        if dense_values.keys() != packed_values.keys():
            raise Failure(
                f"it returns different {what} in the dense and the packed layout: {sorted(dense_values)} and "
                f"{sorted(packed_values)}"
            )
        for name in dense_values:
            require_close(f"`{name}` of its {what}", dense_values[name], packed_values[name])
    for name, gradient in dense_gradients.items():
        require_close(f"the gradient of {name}", gradient, packed_gradients[name])


def _require_no_gradient_through_closed(case: Case) -> None:
    module, invocation = case.build_perturbed().train(), make_invocation(case).with_gradients()
    if module.straight_through:
        raise NotApplicable(
            "it declares straight_through, so its closed pairs pass gradient and it runs in the dense layout only"
        )
    c_BUV = call_component(module, invocation).results["compatibility"]
    if not c_BUV.requires_grad:
        return
    weight_BUV = torch.linspace(0.3, 2.7, c_BUV.numel(), dtype=c_BUV.dtype).cos().view_as(c_BUV)
    open_gradients = compute_gradients(
        module, invocation, (torch.where(c_BUV.detach() > 0, c_BUV, 0) * weight_BUV).sum()
    )
    all_gradients = compute_gradients(
        module, invocation, (call_component(module, invocation).results["compatibility"] * weight_BUV).sum()
    )
    for name, gradient in all_gradients.items():
        require_close(f"the gradient of {name}, with closed pairs and without,", gradient, open_gradients[name])


@conformance_check(
    *MODULE_KINDS,
    why="`train.precision: bf16` computes the forward pass in bfloat16, which has about three significant digits",
    fix="compute norms, exponentials and sums over many elements with torch's operations, which autocast keeps in fp32",
)
def bf16(case: Case) -> None:
    """With autocast to bfloat16, results and gradients are finite."""
    module, invocation = (
        case.build_perturbed().float().train(),
        make_invocation(case).to(torch.float32).with_gradients(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        result = call_component(module, invocation)
    for name, value in result.results.items():
        if not value.isfinite().all():
            raise Failure(f"its {name} is not finite")
    for name, gradient in compute_gradients(module, invocation, weighted_sum(result).float()).items():
        if gradient is not None and not gradient.isfinite().all():
            raise Failure(f"the gradient of {name} is not finite")


@conformance_check(
    *MODULE_KINDS,
    why="planning, exporting and sharding trace a model on tensors without values, which code cannot branch on",
    fix="branch on shapes or use torch.where; do not read tensors with item(), tolist() or bool()",
)
def fake_tensor(case: Case) -> None:
    """The component runs on fake tensors, which have shapes but no values."""
    invocation = make_invocation(case).to(torch.float32)
    with FakeTensorMode() as mode:
        module = case.instantiate()
        fake = attrs.evolve(
            invocation, inputs={name: mode.from_tensor(value) for name, value in invocation.inputs.items()}
        )
        result = call_component(module, fake)
    expected = call_component(case.build_perturbed().float(), invocation)
    for name, value in result.results.items():
        if value.shape != expected.results[name].shape:
            raise Failure(
                f"its {name} is {list(value.shape)} on fake tensors, but {list(expected.results[name].shape)} on real ones"
            )


@conformance_check(
    "type_inference",
    "router",
    "body",
    "halting",
    "linear",
    "input",
    "head",
    why="`engine.compile` compiles components with torch.compile, and every graph break costs speed",
    fix="branch only on configuration and shapes, and call no library that torch cannot trace",
)
def compile_(case: Case) -> None:
    """torch.compile traces the component as one graph, and the results are equal."""
    module, invocation = case.build_perturbed(), make_invocation(case).with_constant_noise()
    expected = call_component(module, invocation)
    torch._dynamo.reset()
    try:
        compiled = torch.compile(_InvocationModule(module, invocation), backend="eager", fullgraph=True)
        results = compiled(dict(invocation.inputs))
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise Failure(f"torch.compile cannot trace it as one graph: {type(error).__name__}: {reason}") from error
    for name, value in results.items():
        require_close(f"its {name}", expected.results[name], value)


class _InvocationModule(nn.Module):
    """An invocation as a module that is called with its inputs."""

    def __init__(self, module: nn.Module, invocation: Invocation) -> None:
        super().__init__()
        self.module, self.invocation = module, invocation

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(call_component_with(self.module, self.invocation, inputs).results)
