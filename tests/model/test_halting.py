"""Halting: how a script uses the probabilities that a component returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Context, Halting
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.routing_metrics import routing_metrics
from ni_framework.model.script import Script, ScriptOutput
from ni_framework.model.trace import trace
from tests.helpers.models import (
    build_base_model,
    build_tiny_model,
    first_script,
    gradients_by_name,
    random_inputs,
    tiny_inputs,
    weighted_sum,
)

# The fraction of the remaining probability at which each element halts, by its number modulo 4.
HALT_FRACTIONS = torch.tensor([0.5, 0.25, 1.0, 0.0], dtype=torch.float64)


class FixedFractionHalting(Halting):
    """Halts each element with a fixed fraction of the remaining probability; element 2 halts at once."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[Context] = []

    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        self.contexts.append(context)
        return remaining_BV * HALT_FRACTIONS.repeat(len(x_BVD[0]))[: len(x_BVD[0])]

    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        return {"ponder": 0.5 * halt_IBV[0].sum()}


def build_halting_model(*overrides: str) -> tuple[Interpreter, Script]:
    model = build_base_model(*overrides)
    script = first_script(model)
    script.halting = FixedFractionHalting()
    return model, script


def run_first_script(model: Interpreter, inputs: Tensor, mask: Tensor | None = None) -> ScriptOutput:
    with torch.no_grad():
        return model(inputs, mask, detail="trace").script_outputs[0]


def test_output_is_the_mean_of_the_states() -> None:
    """p_1 = 1/2, 1/4, 1, 0; the last iteration takes the remaining probability; probabilities sum to 1."""
    model, _ = build_halting_model()
    script_output = run_first_script(model, random_inputs())
    halt_IBV = script_output.halt_IBV
    assert halt_IBV is not None
    assert len(halt_IBV) == 5
    torch.testing.assert_close(halt_IBV.sum(dim=0), torch.ones_like(halt_IBV[0]))
    torch.testing.assert_close(halt_IBV[:, 0, 0], torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).double())
    torch.testing.assert_close(halt_IBV[:, 0, 3], torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]).double())
    expected_BVD = sum(halt.unsqueeze(-1) * state for halt, state in zip(halt_IBV, script_output.state, strict=True))
    torch.testing.assert_close(script_output.output_BVD, expected_BVD)


def test_halted_elements_are_masked() -> None:
    """No function takes element 2 after the first iteration; it keeps its state, and the router receives it as masked."""
    model, script = build_halting_model()
    script_output = run_first_script(model, random_inputs())
    for iteration, (c_BUV, state_BVD) in enumerate(zip(script_output.compatibility, script_output.state, strict=True)):
        assert bool(c_BUV[..., 2].any()) == (iteration == 0)
        assert c_BUV[..., 1].any()
        torch.testing.assert_close(state_BVD[:, 2], script_output.state[0][:, 2], rtol=0, atol=0)
    assert isinstance(script.halting, FixedFractionHalting)
    for iteration, context in enumerate(script.halting.contexts):
        assert context.present_BV is not None
        assert bool(context.present_BV[0, 2]) == (iteration == 0), f"element 2 in iteration {iteration}"


def test_cost_is_not_divided_by_the_iterations() -> None:
    model, _ = build_halting_model()
    forward = model(random_inputs(), detail="losses")
    script_output = run_first_script(model, random_inputs())
    assert script_output.halt_IBV is not None
    torch.testing.assert_close(forward.losses["ponder"], 0.5 * script_output.halt_IBV[0].sum())


def test_metrics_contain_the_expected_iterations() -> None:
    """Masked elements and registers do not count."""
    model, _ = build_halting_model("model.registers=2")
    plain = routing_metrics(trace(model, random_inputs()))
    script_output = run_first_script(model, random_inputs())
    assert script_output.halt_IBV is not None
    expected = torch.einsum("i,ibv->bv", torch.arange(1.0, 6.0).double(), script_output.halt_IBV)
    assert expected.shape == script_output.output_BVD.shape[:2]
    assert plain["routing/iterations/script0"] == pytest.approx(expected.mean().item())
    # Halted elements do not count as orphans.
    assert plain["routing/orphans"] == 0
    # Two of eight elements halt at once.
    assert plain["routing/computed/script0"] == pytest.approx((6 * 5 + 2 * 1) / 8)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 3:] = False
    masked = routing_metrics(trace(model, random_inputs(), mask), mask)
    assert masked["routing/iterations/script0"] != pytest.approx(plain["routing/iterations/script0"])


def test_all_iterations_without_halting() -> None:
    model = build_base_model()
    assert run_first_script(model, random_inputs()).halt_IBV is None
    assert not any("iterations" in name for name in routing_metrics(trace(model, random_inputs())))


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_layouts_and_activation_checkpointing_agree(execution: str) -> None:
    """Outputs and gradients; packed rows do not contain halted elements."""
    results = []
    modes: list[tuple[str, Literal["none", "iteration", "script"]]]
    modes = [("dense", "none"), (execution, "iteration"), (execution, "script")]
    for layout, activation_checkpointing in modes:
        model = build_tiny_model()
        script = first_script(model)
        script.halting = FixedFractionHalting()
        script.set_execution(layout)
        script.activation_checkpointing = activation_checkpointing
        logits = model(tiny_inputs())
        results.append((logits, gradients_by_name(model, weighted_sum(logits))))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
