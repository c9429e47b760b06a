"""A call of a component with random inputs. Their axes have letters, so that one check works for many kinds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from ni_framework.contracts import Context, Output, Sizes
from ni_framework.model.noise import KeyedNoise
from ni_framework.nn.kernel import to_unit_length
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.nn.random import rng_keys
from ni_framework.testing.harness.case import CASE_BATCH_SIZE, CASE_TASKS, Case

INPUT_AXES: Mapping[str, str] = {
    "x": "BVD",
    "type": "BVT",
    "signature": "UT",
    "code": "UC",
    "compatibility": "BUV",
    "present": "BV",
    "remaining": "BV",
    # Followed by the shape of one input.
    "inputs": "B",
    # [B, 1, D], the change of a head's CLS elements.
    "cls_offset": "B",
    "mask": "BN",
    "key": "B",
}
INPUTS_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "embedding": (),
    "type_inference": ("x", "key"),
    "router": ("type", "signature", "key"),
    "body": ("x", "code", "compatibility", "key"),
    "halting": ("x", "remaining", "key"),
    "linear": ("x", "code", "compatibility"),
    "input": ("inputs", "key"),
    "head": ("x", "cls_offset"),
}
RESULT_AXES: Mapping[str, str] = {
    "signature": "UT",
    "code": "UC",
    "type": "BVT",
    "compatibility": "BUV",
    # The dense rows of a body or a linear map.
    "output": "BUVD",
    "halt": "BV",
    "elements": "BND",
} | dict.fromkeys(CASE_TASKS, "B")


@frozen
class Invocation:
    """The inputs of one call by name (`INPUT_AXES`), the layout of pairs, and the noise (None: keyed by the samples)."""

    kind: str
    inputs: Mapping[str, Tensor]
    layout: Any = DensePairs
    noise: Any = None

    def with_inputs(self, **inputs: Tensor | None) -> Invocation:
        """Returns the invocation with some inputs replaced, or removed where the value is None."""
        merged = {name: value for name, value in {**self.inputs, **inputs}.items() if value is not None}
        return evolve(self, inputs=merged)

    def with_indices(self, letter: str, index: Tensor) -> Invocation:
        """Returns the invocation with the given indices along the axis of a letter, in all inputs that have it."""
        return evolve(
            self,
            inputs={name: select_along(value, INPUT_AXES[name], letter, index) for name, value in self.inputs.items()},
        )

    def with_gradients(self) -> Invocation:
        """Returns the invocation with inputs that require gradients."""
        return evolve(
            self,
            inputs={
                name: value.detach().requires_grad_(value.is_floating_point()) for name, value in self.inputs.items()
            },
        )

    def to(self, dtype: torch.dtype) -> Invocation:
        """Returns the invocation with floating-point inputs of another type."""
        return evolve(
            self,
            inputs={
                name: value.to(dtype) if value.is_floating_point() else value for name, value in self.inputs.items()
            },
        )

    def with_constant_noise(self) -> Invocation:
        """Returns the invocation with noise that is the same everywhere."""
        return evolve(self, noise=ConstantNoise(len(self.inputs["key"]))) if "key" in self.inputs else self

    def make_context(self, inputs: Mapping[str, Tensor]) -> Context:
        """Returns the context of the call."""
        return Context(0, inputs.get("present", inputs.get("mask")), self.noise or KeyedNoise(inputs["key"], 0, 0))


class CallResult(NamedTuple):
    """What a call returned: tensors by name (`RESULT_AXES`), auxiliary losses and statistics."""

    results: Mapping[str, Tensor]
    aux_losses: Mapping[str, Tensor] = {}
    statistics: Mapping[str, Tensor] = {}


class ConstantNoise:
    """`contracts.Noise` that is the same everywhere, so that it does not change when samples or elements are permuted."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def uniform(self, name: str, *shape: int, per_forward: bool = False) -> Tensor:
        return torch.full((self.num_samples, *shape), 0.37)


def make_invocation(
    case: Case, sizes: Sizes | None = None, batch: int = CASE_BATCH_SIZE, num_leading: int = 1, seed: int = 0
) -> Invocation:
    """Makes an invocation with random inputs in float64.

    Args:
        case: The component under test.
        sizes: The sizes of the inputs; None for those of the case.
        batch: The number of samples.
        num_leading: The number of elements before those on the grid, such as CLS elements.
        seed: The seed of the inputs.
    """
    sizes = sizes or case.sizes
    grid = sizes.grid or (3, 2)
    # A head has its own CLS elements.
    num_elements = grid[0] * grid[1] + (0 if case.kind == "head" else num_leading)
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    draw_BUV = torch.rand(batch, sizes.functions, num_elements, generator=generator, dtype=torch.float64)
    shape = case.instantiate().shape if case.kind == "input" else ()
    tensors = {
        "x": randn(batch, num_elements, sizes.width),
        "type": to_unit_length(randn(batch, num_elements, sizes.type)),
        "signature": to_unit_length(randn(sizes.functions, sizes.type)),
        "code": randn(sizes.functions, sizes.code),
        # About a third of the pairs is closed.
        "compatibility": torch.where(draw_BUV < 0.3, 0, draw_BUV / sizes.functions),
        "remaining": torch.rand(batch, num_elements, generator=generator, dtype=torch.float64),
        "inputs": randn(batch, *shape),
        "key": rng_keys(seed, torch.arange(batch)),
        "cls_offset": randn(batch, 1, sizes.width),
    }
    return Invocation(case.kind, {name: tensors[name] for name in INPUTS_BY_KIND[case.kind]})


def call_component(module: Any, invocation: Invocation) -> CallResult:
    """Calls a component as the framework does."""
    return call_component_with(module, invocation, invocation.inputs)


def call_component_with(module: Any, invocation: Invocation, inputs: Mapping[str, Tensor]) -> CallResult:
    """Calls a component like `call_component`, with the inputs as an argument, where torch.compile traces them."""
    match invocation.kind:
        case "embedding":
            signature_UT, code_UC = module()
            return CallResult({"signature": signature_UT, "code": code_UC})
        case "type_inference":
            return _to_call_result("type", module(inputs["x"], invocation.make_context(inputs)))
        case "router":
            return _to_call_result(
                "compatibility", module(inputs["type"], inputs["signature"], invocation.make_context(inputs))
            )
        case "halting":
            return _to_call_result("halt", module(inputs["x"], inputs["remaining"], invocation.make_context(inputs)))
        case "body":
            pairs = invocation.layout(inputs["compatibility"])
            prepared = module.prepare(inputs["code"], inputs["x"].shape[1])
            extra = {"context": invocation.make_context(inputs)} if module.takes_context else {}
            return _to_dense_result(pairs, module(inputs["x"], prepared, pairs, **extra))
        case "linear":
            pairs = invocation.layout(inputs["compatibility"])
            return _to_dense_result(pairs, module(pairs.dispatch(inputs["x"]), module.prepare(inputs["code"]), pairs))
        case "input":
            extra = {"context": invocation.make_context(inputs)} if module.takes_context else {}
            return _to_call_result("elements", module(inputs["inputs"], inputs.get("mask"), **extra))
        case _:
            output = Output.wrap(_call_head(module, inputs))
            return CallResult(output.value, output.aux_losses, output.statistics)


def _call_head(head: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor] | Output:
    """Calls a head on its CLS elements, to which `cls_offset` is added, followed by the elements of the input."""
    cls_LD, _ = head.cls_tokens(tuple(CASE_TASKS))
    x_BVD = torch.cat([cls_LD + inputs["cls_offset"], inputs["x"]], dim=1)
    present_BV = inputs.get("present")
    if present_BV is not None:
        present_BV = torch.cat([present_BV.new_ones(len(x_BVD), len(cls_LD)), present_BV], dim=1)
    return head(x_BVD, present_BV, tuple(CASE_TASKS))


def _to_call_result(name: str, value: Any) -> CallResult:
    output = Output.wrap(value)
    return CallResult({name: output.value}, output.aux_losses, output.statistics)


def _to_dense_result(pairs: DensePairs | PackedPairs, value: Any) -> CallResult:
    output = Output.wrap(value)
    return CallResult({"output": pairs.to_dense(output.value)}, output.aux_losses, output.statistics)


def select_along(value: Tensor, axes: str, letter: str, index: Tensor) -> Tensor:
    """Selects indices along the axis of a letter; returns tensors without this axis unchanged."""
    return value.index_select(axes.index(letter), index) if letter in axes else value


def weighted_sum(result: CallResult) -> Tensor:
    """Returns a scalar: the sum of all numbers of a result, each with a different weight."""
    return torch.stack(
        [
            (value * torch.linspace(0.3, 2.7, value.numel()).cos().view(value.shape).to(value)).sum()
            for value in result.results.values()
        ]
    ).sum()


def compute_gradients(module: nn.Module, invocation: Invocation, total: Tensor) -> dict[str, Tensor | None]:
    """Returns the gradients of a scalar by parameter ("weight") and input ("input code"); None where there is none."""
    sources = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    sources |= {f"input {name}": tensor for name, tensor in invocation.inputs.items() if tensor.requires_grad}
    if not sources or not total.requires_grad:
        return dict.fromkeys(sources)
    grads = torch.autograd.grad(total, list(sources.values()), allow_unused=True)
    return dict(zip(sources, grads, strict=True))


def invoke(case: Case) -> None:
    """Builds the component and, if it is a module, calls it once at small sizes; exceptions propagate."""
    if case.kind == "data":
        case.instantiate()
    else:
        call_component(case.build_perturbed(), make_invocation(case))


@lru_cache(maxsize=64)
def can_be_called(case: Case) -> bool:
    """Returns whether `invoke` succeeds; if it fails, the check `runs` reports the reason."""
    try:
        invoke(case)
    except KeyboardInterrupt:
        raise
    except BaseException:
        # Third-party code may even raise SystemExit.
        return False
    return True
