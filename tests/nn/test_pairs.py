"""The operations of `contracts.Pairs` in both layouts, row by row against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.nn.modlin import ModulatedMap, Modulation, modlin, scale_of

B, U, V, D, E, C = 2, 3, 5, 7, 4, 6
LAYOUTS = pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
AnyPairs = type[DensePairs] | type[PackedPairs]


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compatibilities() -> Tensor:
    """Random, a third closed; function 1 takes nothing of sample 0."""
    c_BUV = randn(B, U, V, seed=0).abs()
    c_BUV[randn(B, U, V, seed=1) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


def spots(c_BUV: Tensor) -> list[tuple[int, int, int]]:
    """Sample, function and element of each open pair, in the order of the packed layout."""
    found = [(b, u, i) for u in range(U) for b in range(B) for i in range(V) if c_BUV[b, u, i] > 0]
    return sorted(found, key=lambda spot: int((c_BUV[spot[0], spot[1]] > 0).sum()))


def read(rows: Tensor, c_BUV: Tensor, layout: AnyPairs) -> list[Tensor]:
    """The row of each open pair, wherever the layout keeps it."""
    if layout is PackedPairs:
        assert len(rows) == len(spots(c_BUV))
        return list(rows)
    rows = rows.expand(U, B, V, *rows.shape[3:])
    return [rows[u, b, i] for b, u, i in spots(c_BUV)]


def rows_of(pairs: DensePairs | PackedPairs, x_BVD: Tensor, value_UD: Tensor) -> Tensor:
    """Rows that differ by element and by function."""
    return pairs.share(x_BVD) + pairs.spread(value_UD)


@LAYOUTS
def test_share_spread_and_compatibility(layout: AnyPairs) -> None:
    c_BUV, x_BVD, value_UD = compatibilities(), randn(B, V, D, seed=2), randn(U, D, seed=3)
    pairs = layout(c_BUV)
    found = zip(
        spots(c_BUV),
        read(pairs.share(x_BVD), c_BUV, layout),
        read(rows_of(pairs, x_BVD, value_UD), c_BUV, layout),
        read(pairs.compatibility, c_BUV, layout),
        strict=True,
    )
    for (b, u, i), shared, both, c in found:
        assert torch.equal(shared, x_BVD[b, i])
        torch.testing.assert_close(both, x_BVD[b, i] + value_UD[u])
        assert c.tolist() == [c_BUV[b, u, i].item()]


@LAYOUTS
@pytest.mark.parametrize("biased", [True, False])
def test_modulate(layout: AnyPairs, biased: bool) -> None:
    """W (x * LN(W_c code)) + b of every row."""
    c_BUV, x_BVD, value_UD = compatibilities(), randn(B, V, D, seed=2), randn(U, D, seed=3)
    weight_ED, code_UC, weight_DC = randn(E, D, seed=4), randn(U, C, seed=5), randn(D, C, seed=6)
    bias_E = randn(E, seed=7) if biased else None
    pairs = layout(c_BUV)
    rows = pairs.modulate(
        rows_of(pairs, x_BVD, value_UD), Modulation(ModulatedMap(weight_ED, scale_of(code_UC, weight_DC), bias_E))
    )
    for (b, u, i), row in zip(spots(c_BUV), read(rows, c_BUV, layout), strict=True):
        scale_D = weight_DC @ code_UC[u]
        scale_D = (scale_D - scale_D.mean()) / (scale_D.var(correction=0) + 1e-5).sqrt()
        expected = weight_ED @ ((x_BVD[b, i] + value_UD[u]) * scale_D)
        torch.testing.assert_close(row, expected if bias_E is None else expected + bias_E)
        torch.testing.assert_close(row, modlin(x_BVD[b, i] + value_UD[u], scale_D, weight_ED, bias_E))


@LAYOUTS
def test_multiply(layout: AnyPairs) -> None:
    """Each row times its function's own matrix."""
    c_BUV, x_BVD, value_UD = compatibilities(), randn(B, V, D, seed=2), randn(U, D, seed=3)
    weight_UED = randn(U, E, D, seed=4)
    pairs = layout(c_BUV)
    rows = pairs.multiply(rows_of(pairs, x_BVD, value_UD), weight_UED)
    for (b, u, i), row in zip(spots(c_BUV), read(rows, c_BUV, layout), strict=True):
        torch.testing.assert_close(row, weight_UED[u] @ (x_BVD[b, i] + value_UD[u]))


@LAYOUTS
def test_multiply_has_gradients(layout: AnyPairs) -> None:
    c_BUV, weight_UED = compatibilities(), randn(U, E, D, seed=4).requires_grad_()
    x_BVD = randn(B, V, D, seed=2).requires_grad_()

    def pooled(x_BVD: Tensor, weight_UED: Tensor) -> Tensor:
        pairs = layout(c_BUV)
        return pairs.pool(pairs.multiply(pairs.share(x_BVD), weight_UED))

    assert torch.autograd.gradcheck(pooled, [x_BVD, weight_UED])


@LAYOUTS
def test_multiply_with_nothing_open(layout: AnyPairs) -> None:
    pairs = layout(torch.zeros(B, U, V, dtype=torch.float64))
    rows = pairs.multiply(pairs.share(randn(B, V, D, seed=2)), randn(U, E, D, seed=4))
    assert torch.equal(pairs.pool(rows), torch.zeros(B, V, E, dtype=torch.float64))


@LAYOUTS
@pytest.mark.parametrize("per_function", [True, False])
def test_attend(layout: AnyPairs, per_function: bool) -> None:
    """Within each function and sample, with positions of the function or of all, and multiplicity."""
    heads, c_BUV = 2, compatibilities()
    x_BVD, value_UD = randn(B, V, heads * D, seed=2), randn(U, heads * D, seed=3)
    position_UHVV = randn(U if per_function else 1, heads, V, V, seed=5)
    multiplicity_V = torch.tensor([3.0, 1, 1, 1, 1], dtype=torch.float64)
    pairs = layout(c_BUV, multiplicity_V)
    query, key, value = (
        pairs.modulate(rows_of(pairs, x_BVD, value_UD), Modulation(ModulatedMap(weight, value_UD, None))).unflatten(
            -1, (heads, -1)
        )
        for weight in (randn(heads * E, heads * D, seed=n) for n in (6, 7, 8))
    )
    attended = read(pairs.attend(query, key, value, position_UHVV), c_BUV, layout)
    queries, keys, values = (read(rows, c_BUV, layout) for rows in (query, key, value))
    places = spots(c_BUV)
    for n, (b, u, i) in enumerate(places):
        others = [m for m, (b2, u2, _) in enumerate(places) if (b2, u2) == (b, u)]
        for head in range(heads):
            logits = [
                (queries[n][head] @ keys[m][head] + position_UHVV[u if per_function else 0, head, i, places[m][2]])
                / E**0.5
                for m in others
            ]
            weights = [c_BUV[places[m]] * multiplicity_V[places[m][2]] for m in others]
            w = torch.stack([c * logit.exp() for c, logit in zip(weights, logits, strict=True)])
            expected = sum(w_m / w.sum() * values[m][head] for w_m, m in zip(w, others, strict=True))
            torch.testing.assert_close(attended[n][head], expected)


@LAYOUTS
def test_pool(layout: AnyPairs) -> None:
    c_BUV, x_BVD, value_UD = compatibilities(), randn(B, V, D, seed=2), randn(U, D, seed=3)
    pairs = layout(c_BUV)
    pooled_BVD = pairs.pool(rows_of(pairs, x_BVD, value_UD))
    for b in range(B):
        for i in range(V):
            expected = torch.stack([c_BUV[b, u, i] * (x_BVD[b, i] + value_UD[u]) for u in range(U)]).sum(dim=0)
            torch.testing.assert_close(pooled_BVD[b, i], expected)


def test_packed_rows_are_the_open_pairs_only() -> None:
    c_BUV = compatibilities()
    assert len(PackedPairs(c_BUV).share(randn(B, V, D, seed=2))) == len(spots(c_BUV)) < B * U * V


@LAYOUTS
def test_place_and_take(layout: AnyPairs) -> None:
    """Rows lie where their pairs are, and come back from there; closed places are 0, whatever a dense row holds there."""
    c_BUV, x_BVD, value_UD = compatibilities(), randn(B, V, D, seed=2), randn(U, D, seed=3)
    pairs = layout(c_BUV)
    placed_BUVD = pairs.place(rows_of(pairs, x_BVD, value_UD))
    expected_BUVD = (x_BVD[:, None] + value_UD[None, :, None]) * (c_BUV > 0).unsqueeze(-1)
    torch.testing.assert_close(placed_BUVD, expected_BUVD, rtol=0, atol=0)
    other_BUVD = randn(B, U, V, E, seed=4)
    for row, (b, u, i) in zip(read(pairs.take(other_BUVD), c_BUV, layout), spots(c_BUV), strict=True):
        torch.testing.assert_close(row, other_BUVD[b, u, i], rtol=0, atol=0)


def test_place_drops_what_is_no_number_in_closed_rows() -> None:
    c_BUV = compatibilities()
    rows_RD = torch.where(c_BUV.transpose(0, 1).unsqueeze(-1) > 0, 1.0, torch.nan)
    assert DensePairs(c_BUV).place(rows_RD).isfinite().all()
