"""Checks that results do not depend on other samples, the order of elements and functions, or masked and closed values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from ni_framework.contracts import Sizes
from ni_framework.errors import OptionError
from ni_framework.testing.checks.check import MODULE_KINDS, conformance_check
from ni_framework.testing.failures import Failure, NotApplicable
from ni_framework.testing.harness.case import CASE_BATCH_SIZE, CASE_TASKS, LINEAR_OUT_FEATURES, Case
from ni_framework.testing.harness.compare import require_close, require_close_results
from ni_framework.testing.harness.invocation import (
    RESULT_AXES,
    CallResult,
    Invocation,
    call_component,
    make_invocation,
    select_along,
)


@conformance_check(
    *MODULE_KINDS,
    why="recipes choose widths and numbers of functions freely, the last batch has fewer samples, and tests of equality use "
    "float64",
    fix="read sizes from `sizes` and from the tensors, and create new tensors with the type and device of the inputs",
)
def shapes(case: Case) -> None:
    """For several sizes, results have the shapes and number types that the contract requires."""
    for sizes, batch, lead in _size_grid(case):
        try:
            module = case.build_perturbed(sizes)
        except OptionError:
            # The component rejects these sizes.
            continue
        for dtype in (torch.float64, torch.float32):
            invocation = make_invocation(case, sizes, batch, lead).to(dtype)
            for name, value in call_component(module.to(dtype), invocation).results.items():
                expected = _expected_shape(case, name, module, invocation, sizes)
                where = f"B {batch}, U {sizes.functions}, D {sizes.width}, C {sizes.code}, T {sizes.type}, {dtype}"
                if list(value.shape) != expected:
                    raise Failure(
                        f"its {name} is {list(value.shape)}, not {RESULT_AXES[name]} {expected}, with {where}"
                    )
                if value.dtype != dtype:
                    raise Failure(f"its {name} is {value.dtype} with {where}")


def _size_grid(case: Case) -> Iterator[tuple[Sizes, int, int]]:
    base = case.sizes
    yield base, CASE_BATCH_SIZE, 1
    yield base, 1, 3
    yield attrs.evolve(base, functions=1), 2, 1
    yield attrs.evolve(base, functions=3, width=2 * base.width, code=4, type=2 * base.type), 2, 2
    yield attrs.evolve(base, code=1, type=16, grid=(1, 1)), 2, 1
    yield attrs.evolve(base, grid=None), 2, 0


def _expected_shape(case: Case, name: str, module: Any, invocation: Invocation, sizes: Sizes) -> list[int]:
    if name in CASE_TASKS:
        return [len(invocation.inputs["x"]), CASE_TASKS[name]]
    if case.kind == "input":
        return [len(invocation.inputs["inputs"]), module.num_elements, sizes.width]
    elements = invocation.inputs.get("x", invocation.inputs.get("type"))
    axis_sizes = {"U": sizes.functions, "D": sizes.width, "C": sizes.code, "T": sizes.type}
    axis_sizes |= {} if elements is None else {"B": len(elements), "V": elements.shape[1]}
    axis_sizes |= {"D": LINEAR_OUT_FEATURES} if case.kind == "linear" else {}
    return [axis_sizes[letter] for letter in RESULT_AXES[name]]


@conformance_check(
    *[kind for kind in MODULE_KINDS if kind != "embedding"],
    why="the output of a model for a sample must not depend on the other samples in its batch",
    fix="do not average, sort or take maxima over B; elements may compete only within their sample",
)
def batch(case: Case) -> None:
    """Every sample alone has the same results as in a batch."""
    module, invocation = case.build_perturbed(), make_invocation(case)
    for training in (False, True):
        full_result = call_component(module.train(training), invocation)
        for sample in range(CASE_BATCH_SIZE):
            alone = call_component(module, invocation.with_indices("B", torch.tensor([sample])))
            sample_results = {
                name: select_along(value, RESULT_AXES[name], "B", torch.tensor([sample]))
                for name, value in full_result.results.items()
            }
            require_close_results(CallResult(sample_results), alone, f"when sample {sample} is computed alone")


@conformance_check(
    "type_inference",
    "router",
    "body",
    "halting",
    "linear",
    "head",
    why="elements are a set: without positions, the results must not depend on their order",
    fix="let nothing depend on the index of an element; if positions matter, use `sizes.grid` and make that an option",
)
def elements(case: Case) -> None:
    """Elements in a different order give the same results in that order."""
    sizes = case.gridless_sizes() if case.kind not in ("linear", "head") else case.sizes
    module, invocation = case.build_perturbed(sizes), make_invocation(case, sizes).with_constant_noise()
    order = torch.arange(invocation.inputs["type" if case.kind == "router" else "x"].shape[1]).flip(0).roll(3)
    expected = {
        name: select_along(value, RESULT_AXES[name], "V", order)
        for name, value in call_component(module, invocation).results.items()
    }
    require_close_results(
        CallResult(expected),
        call_component(module, invocation.with_indices("V", order)),
        "when the elements are in a different order",
    )


@conformance_check(
    "router",
    "body",
    "linear",
    why="only signature and code distinguish functions: growing, pruning and merging renumber them",
    fix="keep the state of a function in tensors with a leading U, and let nothing else depend on its number",
)
def functions(case: Case) -> None:
    """Functions in a different order, including state with a leading U, give the same results in that order."""
    module, invocation = case.build_perturbed(), make_invocation(case).with_constant_noise()
    order = torch.arange(case.sizes.functions).flip(0).roll(3)
    expected = {
        name: select_along(value, RESULT_AXES[name], "U", order)
        for name, value in call_component(module, invocation).results.items()
    }
    per_function = _per_function_tensors(case)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name in per_function:
                tensor.copy_(tensor[order])
    require_close_results(
        CallResult(expected),
        call_component(module, invocation.with_indices("U", order)),
        "when the functions are in a different order",
    )


def _per_function_tensors(case: Case) -> set[str]:
    """Returns the parameters and buffers with a leading U: those whose first size changes with the number of functions."""
    count = case.sizes.functions
    sizes = {}
    for functions in (count, count + 2):
        module = case.build_on_meta(attrs.evolve(case.sizes, functions=functions))
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        sizes[functions] = {name: len(tensor) if tensor.ndim else 0 for name, tensor in tensors.items()}
    return {name for name, size in sizes[count].items() if size == count and sizes[count + 2].get(name) != count}


@conformance_check(
    "type_inference",
    "router",
    "body",
    "linear",
    "halting",
    "input",
    "head",
    why="padding must have no influence, and a function must not use elements that it does not take: a pair with "
    "compatibility 0 has no effect",
    fix="mask before you sum, sort or normalise: torch.where(present, x, 0); inside a body, mix elements with "
    "pairs.attention, or with pairs.to_dense, in which closed pairs are 0",
)
def masking(case: Case) -> None:
    """The values of masked elements and closed pairs have no influence."""
    invocation = make_invocation(case)
    for training in (False, True):
        module = case.build_perturbed().train(training)
        match case.kind:
            case "input":
                _check_masked_inputs(module, invocation)
            case "body" | "linear":
                _check_closed_pairs(module, invocation)
            case "halting":
                _check_masked_cost(module, invocation)
                _check_masked_elements(module, invocation)
            case _:
                _check_masked_elements(module, invocation)


def _check_masked_elements(module: Any, invocation: Invocation) -> None:
    """Changes masked elements. All kinds except heads return a value for each element, of which the present ones count."""
    name = "type" if invocation.kind == "router" else "x"
    present_BV = torch.arange(invocation.inputs[name].shape[1]).expand(CASE_BATCH_SIZE, -1) % 3 != 2
    invocation = invocation.with_inputs(present=present_BV)
    # Reversing a type keeps its length at 1, which routers rely on.
    garbage = invocation.inputs[name].flip(-1) * (torch.nan if invocation.kind == "head" else 1)
    changed = invocation.with_inputs(**{name: torch.where(present_BV.unsqueeze(-1), invocation.inputs[name], garbage)})
    before, after = call_component(module, invocation), call_component(module, changed)
    if invocation.kind != "head":
        before, after = _select_present(before, present_BV), _select_present(after, present_BV)
    require_close_results(before, after, "when masked elements change")


def _select_present(result: CallResult, present_BV: Tensor) -> CallResult:
    present_index = present_BV[0].nonzero().squeeze(-1)
    return CallResult(
        {name: select_along(value, RESULT_AXES[name], "V", present_index) for name, value in result.results.items()}
    )


def _check_closed_pairs(module: Any, invocation: Invocation) -> None:
    """Changes, for each function, the elements that it does not take."""
    c_BUV = invocation.inputs["compatibility"]
    before = call_component(module, invocation).results["output"]
    for function in range(c_BUV.shape[1]):
        closed_BV1 = (c_BUV[:, function] == 0).unsqueeze(-1)
        x_BVD = torch.where(closed_BV1, 3 * invocation.inputs["x"].flip(-1) + 1, invocation.inputs["x"])
        after = call_component(module, invocation.with_inputs(x=x_BVD)).results["output"]
        when = f"when elements change that function {function} does not take"
        require_close("its output BUVD", before[:, function], after[:, function], when)


def _check_masked_cost(module: Any, invocation: Invocation) -> None:
    remaining_BV = invocation.inputs["remaining"]
    present_BV = torch.arange(remaining_BV.shape[1]).expand(CASE_BATCH_SIZE, -1) % 3 != 2
    halt_IBV = torch.stack([0.2 * remaining_BV, 0.3 * remaining_BV, 1 - 0.5 * remaining_BV])
    before = module.cost(halt_IBV, present_BV)
    after = module.cost(torch.where(present_BV, halt_IBV, halt_IBV.flip(0)), present_BV)
    for name, loss in before.items():
        require_close(f"its cost `{name}`", loss, after[name], "when masked elements halt at different iterations")


def _check_masked_inputs(module: Any, invocation: Invocation) -> None:
    """Replaces the numbers that reach only masked elements, by NaN if the inputs have gradients (tokens have none)."""
    inputs = invocation.inputs["inputs"]
    with torch.no_grad():
        num_elements = module(inputs, None).shape[1]
    mask_BN = torch.arange(num_elements).expand(CASE_BATCH_SIZE, -1) % 3 != 2
    has_gradient = _reached_by_gradient(module, inputs, None, mask_BN) is not None
    garbage = torch.full_like(inputs, torch.nan) if has_gradient else inputs.roll(1, 0)
    corrupted = torch.where(_visible_inputs(module, inputs, garbage, mask_BN), inputs, garbage)
    before, after = (torch.where(mask_BN.unsqueeze(-1), module(x, mask_BN), 0) for x in (inputs, corrupted))
    when = "when inputs of masked elements are NaN" if has_gradient else "when inputs of masked elements change"
    require_close_results(CallResult({"elements": before}), CallResult({"elements": after}), when)
    if not after.requires_grad:
        return
    after.square().sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise Failure(f"the gradient of {name} is NaN when inputs of masked elements are: mask them before the map")


def _visible_inputs(module: Any, inputs: Tensor, garbage: Tensor, mask_BN: Tensor) -> Tensor:
    """Returns which numbers of the inputs may influence a present element."""
    visible = _reaching_inputs(module, inputs, garbage, None, mask_BN)
    if not visible.all() or mask_BN.all():
        return visible
    # Each number reaches some present element as long as no mask is given. The mask must change that.
    if torch.equal(module(inputs, mask_BN)[mask_BN], module(inputs, None)[mask_BN]):
        raise Failure("a mask changes nothing, although inputs of masked elements influence elements that are present")
    visible = _reaching_inputs(module, inputs, garbage, mask_BN, mask_BN)
    if visible.all():
        raise NotApplicable("every number of its inputs influences every element, masked or not")
    return visible


def _reaching_inputs(
    module: Any, inputs: Tensor, garbage: Tensor, mask_BN: Tensor | None, present_BN: Tensor
) -> Tensor:
    """Returns which numbers of the inputs influence a present element, by gradients if there are any."""
    by_gradient = _reached_by_gradient(module, inputs, mask_BN, present_BN)
    if by_gradient is not None:
        return by_gradient
    return _reached_by_substitution(module, inputs, garbage, mask_BN, present_BN)


def _reached_by_gradient(module: Any, inputs: Tensor, mask_BN: Tensor | None, present_BN: Tensor) -> Tensor | None:
    """Finds by gradients which numbers influence a present element; None if the inputs have no gradients, as tokens."""
    inputs = inputs.clone().requires_grad_()
    x_BND = module(inputs, mask_BN)
    if not x_BND.requires_grad:
        return None
    gradients = [
        torch.autograd.grad(x_BND[:, n].sum(), inputs, retain_graph=True, allow_unused=True)[0]
        for n in present_BN[0].nonzero().squeeze(-1).tolist()
    ]
    nonzero = [gradient != 0 for gradient in gradients if gradient is not None]
    return torch.stack(nonzero).any(dim=0) if nonzero else None


def _reached_by_substitution(
    module: Any, inputs: Tensor, garbage: Tensor, mask_BN: Tensor | None, present_BN: Tensor
) -> Tensor:
    """Finds which numbers influence a present element, by replacing one number after the other."""
    size = inputs[0].numel()
    if size > 4096:
        raise NotApplicable("its inputs have no gradients, and are too many to be replaced one by one")
    reached = []
    with torch.no_grad():
        for sample in range(CASE_BATCH_SIZE):
            mask = None if mask_BN is None else mask_BN[sample].expand(size, -1)
            base, new = inputs[sample].flatten(), garbage[sample].flatten()
            varied = torch.where(torch.eye(size, dtype=torch.bool), new, base).view(size, *inputs.shape[1:])
            base_output = module(inputs[sample : sample + 1], None if mask is None else mask[:1])
            # Shape [number, N].
            differs = (module(varied, mask) != base_output).any(dim=-1)
            reached.append(differs[:, present_BN[sample]].any(dim=-1).view(inputs.shape[1:]))
    return torch.stack(reached)
