"""Dense and packed layouts, each with CPU kernels and with plain expressions, compute the same numbers for any open pairs."""

from __future__ import annotations

from typing import Literal, NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.models import FixedRouter, assert_equal_gradients, build_tiny_model, first_script

pytestmark = pytest.mark.slow

B, U, V, D = 3, 4, 7, 8
# Without shrinking, which takes minutes.
EXAMPLES = settings(derandomize=True, max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])


class ExecutionMode(NamedTuple):
    """How a script is computed."""

    layout: str
    # Whether plain expressions are used, as on other devices, under autocast and when compiled.
    plain: bool = False
    activation_checkpointing: Literal["none", "iteration", "script"] = "none"


CPU_KERNELS = ExecutionMode("dense")
OTHER_MODES = (ExecutionMode("packed"), ExecutionMode("dense", plain=True), ExecutionMode("packed", plain=True))


def run_script_mode(
    mode: ExecutionMode,
    overrides: list[str],
    opened_BUV: Tensor,
    present_BV: Tensor | None,
    multiplicity_V: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of a script with a fixed routing, and the gradients of its parameters, its input and the routing."""
    script = first_script(build_tiny_model(f"model.execution={mode.layout}", *overrides))
    script.router = FixedRouter(opened_BUV)
    script.activation_checkpointing = mode.activation_checkpointing
    x_BVD = torch.randn(B, V, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64).requires_grad_()
    with mock.patch.object(torch.compiler, "is_compiling", return_value=mode.plain):
        output_BVD = script(x_BVD, present_BV, multiplicity_V).output_BVD
        total = (output_BVD * torch.arange(1, output_BVD.numel() + 1).sin().view_as(output_BVD)).sum()
        leaves = {"input": x_BVD, **{name: p for name, p in script.named_parameters() if p.requires_grad}}
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    dense_gradients = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves.values(), gradients, strict=True)
    ]
    return output_BVD.detach(), dict(zip(leaves, dense_gradients, strict=True))


def assert_layouts_agree(
    opened_BUV: Tensor, *overrides: str, present_BV: Tensor | None = None, multiplicity_V: Tensor | None = None
) -> None:
    dense, dense_gradients = run_script_mode(CPU_KERNELS, list(overrides), opened_BUV, present_BV, multiplicity_V)
    for mode in OTHER_MODES:
        output, gradients = run_script_mode(mode, list(overrides), opened_BUV, present_BV, multiplicity_V)
        torch.testing.assert_close(dense, output, rtol=1e-10, atol=1e-11, msg=lambda text, mode=mode: f"{mode}: {text}")
        if any(gradient.any() for gradient in dense_gradients.values()):
            assert_equal_gradients(gradients, dense_gradients)
        else:
            # Sum pooling with nothing open.
            assert not any(gradient.any() for gradient in gradients.values())


@st.composite
def routings(draw: st.DrawFn) -> Tensor:
    """Random open pairs [B, U, V] of different density."""
    seed, share = draw(st.integers(0, 10**6)), draw(st.sampled_from([0.05, 0.3, 0.7]))
    return torch.rand(B, U, V, generator=torch.Generator().manual_seed(seed)) < share


@EXAMPLES
@given(
    opened_BUV=routings(),
    mixing=st.sampled_from(["none", "shared", "dot", "sep_sum", "seq_sum"]),
    pooling=st.sampled_from(["delta", "sum"]),
    lines=st.integers(1, 2),
    key=st.sampled_from([2, 9]),
    residual=st.sampled_from(["modulated", "gating"]),
    linear=st.sampled_from(["modlin", "modlin", "gated", "hyper"]),
)
def test_random_routings(
    opened_BUV: Tensor, mixing: str, pooling: str, lines: int, key: int, residual: str, linear: str
) -> None:
    """With keys narrower and wider than half an element, which are computed differently, and with maps other than ModLin."""
    body = f"{{lines: {lines}, heads: 2, key: {key}, hidden: 11, positions: {mixing}, residual: {residual}, linear: {linear}}}"
    assert_layouts_agree(opened_BUV, f"model.body={body}", f"model.pooling={pooling}")


@EXAMPLES
@given(opened_BUV=routings(), seed=st.integers(0, 10**6))
def test_random_masks_and_multiplicity(opened_BUV: Tensor, seed: int) -> None:
    present_BV = torch.rand(B, V, generator=torch.Generator().manual_seed(seed)) < 0.7
    multiplicity_V = torch.ones(V, dtype=torch.float64)
    multiplicity_V[0] = 3
    overrides = ["model.body.positions=sep_sum"]
    assert_layouts_agree(opened_BUV, *overrides, present_BV=present_BV, multiplicity_V=multiplicity_V)


def one_function_takes_all() -> Tensor:
    opened_BUV = torch.zeros(B, U, V, dtype=torch.bool)
    opened_BUV[:, 2] = True
    return opened_BUV


def an_empty_function() -> Tensor:
    opened_BUV = torch.ones(B, U, V, dtype=torch.bool)
    opened_BUV[:, 1] = False
    return opened_BUV


def elements_without_functions() -> Tensor:
    opened_BUV = torch.ones(B, U, V, dtype=torch.bool)
    opened_BUV[:, :, [0, 4]] = False
    opened_BUV[1] = False
    return opened_BUV


EDGE_CASES = {
    "one function takes all": one_function_takes_all(),
    "an empty function": an_empty_function(),
    "elements and a sample without functions": elements_without_functions(),
    "nothing open": torch.zeros(B, U, V, dtype=torch.bool),
    "all open": torch.ones(B, U, V, dtype=torch.bool),
    "one pair open": torch.arange(B * U * V).view(B, U, V) == 40,
}


@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("key", [2, 9])
@pytest.mark.parametrize("unit", ["iteration", "script"])
def test_activation_checkpointing_is_bit_identical(layout: str, key: int, unit: Literal["iteration", "script"]) -> None:
    overrides = [f"model.body.key={key}", "model.body.positions=sep_sum", "model.body.lines=2"]
    opened_BUV = an_empty_function()
    saved, saved_gradients = run_script_mode(ExecutionMode(layout), overrides, opened_BUV, None, None)
    checkpointed, gradients = run_script_mode(
        ExecutionMode(layout, activation_checkpointing=unit), overrides, opened_BUV, None, None
    )
    assert torch.equal(saved, checkpointed)
    for name, gradient in saved_gradients.items():
        assert torch.equal(gradients[name], gradient), f"the gradient of {name} differs"


@pytest.mark.parametrize("layout", ["dense", "packed"])
def test_empty_batch(layout: str) -> None:
    model = build_tiny_model(f"model.execution={layout}")
    logits = model(torch.zeros(0, 1, 6, 4, dtype=torch.float64, requires_grad=True))["shape"]
    assert logits.shape == (0, 13)
    logits.sum().backward()


@pytest.mark.parametrize("pooling", ["delta", "sum"])
@pytest.mark.parametrize("mixing", ["none", "sep_sum"])
@pytest.mark.parametrize("edge", EDGE_CASES)
def test_edges(edge: str, mixing: str, pooling: str) -> None:
    assert_layouts_agree(EDGE_CASES[edge], f"model.body.positions={mixing}", f"model.pooling={pooling}")
