"""Both kinds of halting: comparison with loops, and properties of their losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ni_halting.act import ACT
from ni_halting.ponder import Ponder
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Context, Sizes
from ni_framework.model.noise import KeyedNoise

# I is the letter of the contract for iterations.
I, B, V, D = 6, 3, 5, 7  # noqa: E741
KINDS = pytest.mark.parametrize("kind", [ACT, Ponder])
CONTEXT = Context(0, None, KeyedNoise(torch.zeros(B, dtype=torch.int64), 0, 0))


def make_halting(kind: Any, **options: float) -> Any:
    """Returns a component in float64 and evaluation mode, with weights for which elements halt at different times."""
    torch.manual_seed(0)
    component = kind(kind.Config(**options), Sizes(D, 4, 6, 8, None), None).double()
    with torch.no_grad():
        component.unit.weight.mul_(3)
    return component.eval()


def random_states(seed: int = 1) -> Tensor:
    return torch.randn(I, B, V, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halting_probabilities(component: Any, x_IBVD: Tensor) -> Tensor:
    """Returns all probabilities, [I, B, V], computed in the order of a script."""
    remaining_BV, halts = x_IBVD.new_ones(x_IBVD.shape[1:3]), []
    for x_BVD in x_IBVD[:-1]:
        halts.append(component(x_BVD, remaining_BV, CONTEXT))
        remaining_BV = remaining_BV - halts[-1]
    return torch.stack([*halts, remaining_BV])


def reference(component: Any, x_IBVD: Tensor) -> tuple[Tensor, Tensor]:
    """Returns probabilities and the loss, computed in loops over elements and iterations."""
    halts, costs = torch.zeros(I, B, V, dtype=torch.float64), []
    options, count = component.config, len(x_IBVD)
    for b in range(B):
        sample_costs = []
        for v in range(V):
            ps: list[Tensor] = []
            left = torch.ones((), dtype=torch.float64)
            for i in range(count):
                h = torch.sigmoid(
                    (F.layer_norm(x_IBVD[i, b, v], (D,)) * component.unit.weight[0]).sum() + component.unit.bias[0]
                )
                if isinstance(component, Ponder):
                    h = h * left
                last = bool(left - h <= (options.eps if isinstance(component, ACT) else options.threshold))
                ps.append(left if last or i == count - 1 else h)
                if last:
                    break
                left = left - h
            for i, p in enumerate(ps):
                halts[i, b, v] = p
            if isinstance(component, ACT):
                sample_costs.append(len(ps) + ps[-1])
            else:
                r = 1 / options.mean
                q = [r * (1 - r) ** i if i < count - 1 else (1 - r) ** i for i in range(count)]
                sample_costs.append(torch.stack([p * (p / prior).log() for p, prior in zip(ps, q, strict=False)]).sum())
        costs.append(torch.stack(sample_costs).mean())
    return halts, options.weight * torch.stack(costs).mean()


@KINDS
def test_reference(kind: Any) -> None:
    """Probabilities, the loss, and the gradients of both are equal."""
    component, results = make_halting(kind, weight=0.7), []
    weight_IBV = torch.randn(I, B, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for plain in (False, True):
        x_IBVD = random_states().requires_grad_()
        halt_IBV, cost = reference(component, x_IBVD) if plain else (halting_probabilities(component, x_IBVD), None)
        cost = component.cost(halt_IBV, None)["ponder"] if cost is None else cost
        total = cost + (halt_IBV * weight_IBV).sum()
        results.append((halt_IBV, cost, *torch.autograd.grad(total, [x_IBVD, *component.parameters()])))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
    assert len((results[0][0] > 0).sum(dim=0).unique()) > 2, "elements should halt at different times"


@KINDS
def test_remaining_probability_after_halting_is_exactly_zero(kind: Any) -> None:
    """In float32 too, because otherwise functions would still take the element."""
    halt_IBV = halting_probabilities(make_halting(kind).float(), random_states().float())
    assert bool((halt_IBV[-1] == 0).any())
    torch.testing.assert_close(halt_IBV.sum(dim=0), torch.ones(B, V))


@KINDS
def test_cost_is_a_mean_over_samples_of_means_over_present_elements(kind: Any) -> None:
    component = make_halting(kind)
    halt_IBV = halting_probabilities(component, random_states())
    present_BV = torch.arange(V) < torch.tensor([[5], [2], [3]])
    whole = component.cost(halt_IBV, present_BV)["ponder"]
    cut = [component.cost(halt_IBV[:, [b], :n], None)["ponder"] for b, n in enumerate((5, 2, 3))]
    torch.testing.assert_close(whole, torch.stack(cut).mean())
    assert torch.equal(whole, component.cost(halt_IBV.where(present_BV, 0.5), present_BV)["ponder"])


@KINDS
def test_cost_of_a_single_iteration(kind: Any) -> None:
    """N = R = 1 for ACT, and p is the prior for PonderNet."""
    cost = make_halting(kind, weight=1).cost(torch.ones(1, B, V), None)["ponder"]
    assert cost.item() == (2 if kind is ACT else 0)


def test_gradient_of_act_cost_passes_through_the_remainder() -> None:
    """d (N + R) = -sum_{i<N} d h_i."""
    component = make_halting(ACT, weight=1)
    halt_IBV = halting_probabilities(component, random_states())
    before_IBV = halt_IBV.where(halt_IBV.flip(0).cumsum(dim=0).flip(0) - halt_IBV > 0, 0)
    expected = torch.autograd.grad(-before_IBV.sum() / (B * V), component.unit.bias, retain_graph=True)
    torch.testing.assert_close(
        torch.autograd.grad(component.cost(halt_IBV, None)["ponder"], component.unit.bias), expected
    )


def test_ponder_starts_at_its_prior() -> None:
    """Without an influence of the state the loss is 0, and the expected number of iterations is the truncated mean."""
    component = make_halting(Ponder, weight=1, mean=4, threshold=0)
    with torch.no_grad():
        component.unit.weight.zero_()
        halt_IBV = halting_probabilities(component, random_states())
    assert component.cost(halt_IBV, None)["ponder"].item() == pytest.approx(0, abs=1e-12)
    expected_BV = torch.einsum("i,ibv->bv", torch.arange(1.0, I + 1).double(), halt_IBV)
    torch.testing.assert_close(expected_BV, torch.full((B, V), 4 * (1 - 0.75**I)).double())
    assert component.cost(halting_probabilities(make_halting(Ponder), random_states()), None)["ponder"].item() > 0


def test_threshold_of_ponder_has_an_effect_in_evaluation_only() -> None:
    component = make_halting(Ponder, threshold=0.3)
    assert bool((halting_probabilities(component, random_states())[1:] == 0).any())
    assert bool((halting_probabilities(component.train(), random_states()) > 0).all())


def test_higher_bias_means_fewer_iterations() -> None:
    count_I = torch.arange(1.0, I + 1).double()
    expected = [
        torch.einsum("i,ibv->", count_I, halting_probabilities(make_halting(ACT, bias=b), random_states()))
        for b in (-2.0, 0.0, 2.0)
    ]
    assert expected[0] > expected[1] > expected[2]
