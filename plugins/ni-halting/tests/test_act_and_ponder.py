"""Both kinds of halting against plain loops, and what their prices promise."""

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

I, B, V, D = 6, 3, 5, 7  # noqa: E741  of the legend
KINDS = pytest.mark.parametrize("kind", [ACT, Ponder])
CONTEXT = Context(0, None, KeyedNoise(torch.zeros(B, dtype=torch.int64), 0, 0))


def halting(kind: Any, **options: float) -> Any:
    """In float64, as in evaluation, with a weight large enough that elements halt at different times."""
    torch.manual_seed(0)
    component = kind(kind.Config(**options), Sizes(D, 4, 6, 8, None), None).double()
    with torch.no_grad():
        component.unit.weight.mul_(3)
    return component.eval()


def states(seed: int = 1) -> Tensor:
    return torch.randn(I, B, V, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(component: Any, x_IBVD: Tensor) -> Tensor:
    """All probabilities, [I, B, V], as a script asks for them."""
    left_BV, halts = x_IBVD.new_ones(x_IBVD.shape[1:3]), []
    for x_BVD in x_IBVD[:-1]:
        halts.append(component(x_BVD, left_BV, CONTEXT))
        left_BV = left_BV - halts[-1]
    return torch.stack([*halts, left_BV])


def reference(component: Any, x_IBVD: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and price in plain loops over elements and iterations."""
    halts, prices = torch.zeros(I, B, V, dtype=torch.float64), []
    options, count = component.config, len(x_IBVD)
    for b in range(B):
        of_sample = []
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
                of_sample.append(len(ps) + ps[-1])
            else:
                r = 1 / options.mean
                q = [r * (1 - r) ** i if i < count - 1 else (1 - r) ** i for i in range(count)]
                of_sample.append(torch.stack([p * (p / of).log() for p, of in zip(ps, q, strict=False)]).sum())
        prices.append(torch.stack(of_sample).mean())
    return halts, options.weight * torch.stack(prices).mean()


@KINDS
def test_reference(kind: Any) -> None:
    """Probabilities, price, and the gradients of both."""
    component, found = halting(kind, weight=0.7), []
    weight_IBV = torch.randn(I, B, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for plain in (False, True):
        x_IBVD = states().requires_grad_()
        halt_IBV, price = reference(component, x_IBVD) if plain else (run(component, x_IBVD), None)
        price = component.price(halt_IBV, None)["ponder"] if price is None else price
        total = price + (halt_IBV * weight_IBV).sum()
        found.append((halt_IBV, price, *torch.autograd.grad(total, [x_IBVD, *component.parameters()])))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    assert len((found[0][0] > 0).sum(dim=0).unique()) > 2  # elements halt at different times


@KINDS
def test_nothing_is_left_of_what_has_halted(kind: Any) -> None:
    """Exactly 0, in float32 too: else functions would go on to take it."""
    halt_IBV = run(halting(kind).float(), states().float())
    assert bool((halt_IBV[-1] == 0).any())
    torch.testing.assert_close(halt_IBV.sum(dim=0), torch.ones(B, V))


@KINDS
def test_a_price_is_a_mean_over_samples_of_what_is_present(kind: Any) -> None:
    component = halting(kind)
    halt_IBV = run(component, states())
    present_BV = torch.arange(V) < torch.tensor([[5], [2], [3]])
    whole = component.price(halt_IBV, present_BV)["ponder"]
    cut = [component.price(halt_IBV[:, [b], :n], None)["ponder"] for b, n in enumerate((5, 2, 3))]
    torch.testing.assert_close(whole, torch.stack(cut).mean())
    assert torch.equal(whole, component.price(halt_IBV.where(present_BV, 0.5), present_BV)["ponder"])


@KINDS
def test_one_iteration_has_one_price(kind: Any) -> None:
    """Nothing can be halted: N = R = 1, and p is the prior."""
    price = halting(kind, weight=1).price(torch.ones(1, B, V), None)["ponder"]
    assert price.item() == (2 if kind is ACT else 0)


def test_the_price_of_act_pulls_on_the_remainder_alone() -> None:
    """d (N + R) = -sum_{i<N} d h_i."""
    component = halting(ACT, weight=1)
    halt_IBV = run(component, states())
    before_IBV = halt_IBV.where(halt_IBV.flip(0).cumsum(dim=0).flip(0) - halt_IBV > 0, 0)
    expected = torch.autograd.grad(-before_IBV.sum() / (B * V), component.unit.bias, retain_graph=True)
    torch.testing.assert_close(
        torch.autograd.grad(component.price(halt_IBV, None)["ponder"], component.unit.bias), expected
    )


def test_ponder_starts_at_its_prior() -> None:
    """With no say of the state the price is 0 and the expected number of iterations the truncated mean; elsewhere it costs."""
    component = halting(Ponder, weight=1, mean=4, threshold=0)
    with torch.no_grad():
        component.unit.weight.zero_()
        halt_IBV = run(component, states())
    assert component.price(halt_IBV, None)["ponder"].item() == pytest.approx(0, abs=1e-12)
    expected_BV = torch.einsum("i,ibv->bv", torch.arange(1.0, I + 1).double(), halt_IBV)
    torch.testing.assert_close(expected_BV, torch.full((B, V), 4 * (1 - 0.75**I)).double())
    assert component.price(run(halting(Ponder), states()), None)["ponder"].item() > 0


def test_ponder_halts_for_good_in_evaluation_alone() -> None:
    component = halting(Ponder, threshold=0.3)
    assert bool((run(component, states())[1:] == 0).any())
    assert bool((run(component.train(), states()) > 0).all())


def test_a_higher_bias_starts_shorter() -> None:
    count_I = torch.arange(1.0, I + 1).double()
    expected = [torch.einsum("i,ibv->", count_I, run(halting(ACT, bias=b), states())) for b in (-2.0, 0.0, 2.0)]
    assert expected[0] > expected[1] > expected[2]
