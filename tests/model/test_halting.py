"""Halting: what a script makes of the probabilities that a component gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Context, Halting
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.routing_metrics import routing_figures
from ni_framework.model.script import Passage, Script
from ni_framework.model.trace import trace
from tests.helpers.models import gradients, inputs_of, model_of, script_of, tiny_inputs, tiny_of, weighted_sum

SHARE = torch.tensor([0.5, 0.25, 1.0, 0.0], dtype=torch.float64)  # of what is left, by element modulo 4


class Halves(Halting):
    """Halts with a fixed share of what is left for each element; element 2 halts at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Context] = []

    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor:
        self.seen.append(context)
        return left_BV * SHARE.repeat(len(x_BVD[0]))[: len(x_BVD[0])]

    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        return {"ponder": 0.5 * halt_IBV[0].sum()}


def halting(*overrides: str) -> tuple[Interpreter, Script]:
    model = model_of(*overrides)
    script = script_of(model)
    script.halting = Halves()
    return model, script


def passage_of(model: Interpreter, inputs: Tensor, mask: Tensor | None = None) -> Passage:
    with torch.no_grad():
        return model(inputs, mask, detail="trace").passages[0]


def test_the_outcome_is_the_mean_of_the_states() -> None:
    """p_1 = 1/2, 1/4, 1, 0; the last iteration takes what is left; probabilities sum to 1."""
    model, _ = halting()
    passage = passage_of(model, inputs_of())
    halt_IBV = passage.halt_IBV
    assert halt_IBV is not None
    assert len(halt_IBV) == 5
    torch.testing.assert_close(halt_IBV.sum(dim=0), torch.ones_like(halt_IBV[0]))
    torch.testing.assert_close(halt_IBV[:, 0, 0], torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).double())
    torch.testing.assert_close(halt_IBV[:, 0, 3], torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]).double())
    expected_BVD = sum(halt.unsqueeze(-1) * state for halt, state in zip(halt_IBV, passage.state, strict=True))
    torch.testing.assert_close(passage.output_BVD, expected_BVD)


def test_what_has_halted_takes_no_part() -> None:
    """Element 2 is taken by nobody after the first iteration, keeps its state, and the router knows."""
    model, script = halting()
    passage = passage_of(model, inputs_of())
    for iteration, (c_BUV, state_BVD) in enumerate(zip(passage.compatibility, passage.state, strict=True)):
        assert bool(c_BUV[..., 2].any()) == (iteration == 0)
        assert c_BUV[..., 1].any()
        torch.testing.assert_close(state_BVD[:, 2], passage.state[0][:, 2], rtol=0, atol=0)
    assert isinstance(script.halting, Halves)
    present = [context.present_BV for context in script.halting.seen]
    assert [of is not None and bool(of[0, 2]) for of in present] == [True, False, False, False]


def test_the_price_is_added_as_it_is() -> None:
    model, _ = halting()
    forward = model(inputs_of(), detail="losses")
    passage = passage_of(model, inputs_of())
    assert passage.halt_IBV is not None
    torch.testing.assert_close(forward.losses["ponder"], 0.5 * passage.halt_IBV[0].sum())


def test_figures_tell_the_expected_iterations() -> None:
    """Masked elements do not count, and temporary ones are left out."""
    model, _ = halting("model.temporary=2")
    plain = routing_figures(trace(model, inputs_of()))
    passage = passage_of(model, inputs_of())
    assert passage.halt_IBV is not None
    expected = torch.einsum("i,ibv->bv", torch.arange(1.0, 6.0).double(), passage.halt_IBV)
    assert expected.shape == passage.output_BVD.shape[:2]
    assert plain["routing/iterations/script0"] == pytest.approx(expected.mean().item())
    assert plain["routing/orphans"] == 0  # what has halted is none
    assert plain["routing/computed/script0"] == pytest.approx((6 * 5 + 2 * 1) / 8)  # two of eight halt at once
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 3:] = False
    masked = routing_figures(trace(model, inputs_of(), mask), mask)
    assert masked["routing/iterations/script0"] != pytest.approx(plain["routing/iterations/script0"])


def test_all_iterations_without_halting() -> None:
    model = model_of()
    assert passage_of(model, inputs_of()).halt_IBV is None
    assert not any("iterations" in name for name in routing_figures(trace(model, inputs_of())))


@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_layouts_and_recomputing_agree(execution: str) -> None:
    """Outcomes and gradients, with the halted left out of the packed rows."""
    found = []
    ways: list[tuple[str, Literal["none", "iteration", "script"]]]
    ways = [("dense", "none"), (execution, "iteration"), (execution, "script")]
    for layout, recompute in ways:
        model = tiny_of()
        script = script_of(model)
        script.halting = Halves()
        script.set_execution(layout)
        script.recompute = recompute
        logits = model(tiny_inputs())
        found.append((logits, gradients(model, weighted_sum(logits))))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
