"""The operations of `contracts.Pairs` in both layouts, compared row by row with loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.nn.modlin import ModulatedMap, Modulation, code_scale, modlin

B, U, V, D, E, C = 2, 3, 5, 7, 4, 6
LAYOUTS = pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
AnyPairs = type[DensePairs] | type[PackedPairs]


def randn_pairs(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_compatibilities() -> Tensor:
    """Random compatibilities, a third of them closed; function 1 takes nothing of sample 0."""
    c_BUV = randn_pairs(B, U, V, seed=0).abs()
    c_BUV[randn_pairs(B, U, V, seed=1) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


def open_pair_indices(c_BUV: Tensor) -> list[tuple[int, int, int]]:
    """Sample, function and element of each open pair, in the order of the packed layout."""
    found = [(b, u, i) for u in range(U) for b in range(B) for i in range(V) if c_BUV[b, u, i] > 0]
    return sorted(found, key=lambda spot: int((c_BUV[spot[0], spot[1]] > 0).sum()))


def rows_of_open_pairs(rows: Tensor, c_BUV: Tensor, layout: AnyPairs) -> list[Tensor]:
    """The row of each open pair, in the same order for both layouts."""
    if layout is PackedPairs:
        assert len(rows) == len(open_pair_indices(c_BUV))
        return list(rows)
    rows = rows.expand(U, B, V, *rows.shape[3:])
    return [rows[u, b, i] for b, u, i in open_pair_indices(c_BUV)]


def rows_by_element_and_function(pairs: DensePairs | PackedPairs, x_BVD: Tensor, value_UD: Tensor) -> Tensor:
    """Rows that differ by element and by function."""
    return pairs.dispatch(x_BVD) + pairs.expand(value_UD)


@LAYOUTS
def test_dispatch_expand_and_compatibility(layout: AnyPairs) -> None:
    c_BUV, x_BVD, value_UD = random_compatibilities(), randn_pairs(B, V, D, seed=2), randn_pairs(U, D, seed=3)
    pairs = layout(c_BUV)
    found = zip(
        open_pair_indices(c_BUV),
        rows_of_open_pairs(pairs.dispatch(x_BVD), c_BUV, layout),
        rows_of_open_pairs(rows_by_element_and_function(pairs, x_BVD, value_UD), c_BUV, layout),
        rows_of_open_pairs(pairs.compatibility, c_BUV, layout),
        strict=True,
    )
    for (b, u, i), shared, both, c in found:
        assert torch.equal(shared, x_BVD[b, i])
        torch.testing.assert_close(both, x_BVD[b, i] + value_UD[u])
        assert c.tolist() == [c_BUV[b, u, i].item()]


@LAYOUTS
@pytest.mark.parametrize("biased", [True, False])
def test_modulated_linear(layout: AnyPairs, biased: bool) -> None:
    """W (x * LN(W_c code)) + b of every row."""
    c_BUV, x_BVD, value_UD = random_compatibilities(), randn_pairs(B, V, D, seed=2), randn_pairs(U, D, seed=3)
    weight_ED, code_UC, weight_DC = randn_pairs(E, D, seed=4), randn_pairs(U, C, seed=5), randn_pairs(D, C, seed=6)
    bias_E = randn_pairs(E, seed=7) if biased else None
    pairs = layout(c_BUV)
    rows = pairs.modulated_linear(
        rows_by_element_and_function(pairs, x_BVD, value_UD),
        Modulation(ModulatedMap(weight_ED, code_scale(code_UC, weight_DC), bias_E)),
    )
    for (b, u, i), row in zip(open_pair_indices(c_BUV), rows_of_open_pairs(rows, c_BUV, layout), strict=True):
        scale_D = weight_DC @ code_UC[u]
        scale_D = (scale_D - scale_D.mean()) / (scale_D.var(correction=0) + 1e-5).sqrt()
        expected = weight_ED @ ((x_BVD[b, i] + value_UD[u]) * scale_D)
        torch.testing.assert_close(row, expected if bias_E is None else expected + bias_E)
        torch.testing.assert_close(row, modlin(x_BVD[b, i] + value_UD[u], scale_D, weight_ED, bias_E))


@LAYOUTS
def test_grouped_linear(layout: AnyPairs) -> None:
    """Each row times its function's own matrix."""
    c_BUV, x_BVD, value_UD = random_compatibilities(), randn_pairs(B, V, D, seed=2), randn_pairs(U, D, seed=3)
    weight_UED = randn_pairs(U, E, D, seed=4)
    pairs = layout(c_BUV)
    rows = pairs.grouped_linear(rows_by_element_and_function(pairs, x_BVD, value_UD), weight_UED)
    for (b, u, i), row in zip(open_pair_indices(c_BUV), rows_of_open_pairs(rows, c_BUV, layout), strict=True):
        torch.testing.assert_close(row, weight_UED[u] @ (x_BVD[b, i] + value_UD[u]))


@LAYOUTS
def test_grouped_linear_gradients(layout: AnyPairs) -> None:
    c_BUV, weight_UED = random_compatibilities(), randn_pairs(U, E, D, seed=4).requires_grad_()
    x_BVD = randn_pairs(B, V, D, seed=2).requires_grad_()

    def pooled(x_BVD: Tensor, weight_UED: Tensor) -> Tensor:
        pairs = layout(c_BUV)
        return pairs.combine(pairs.grouped_linear(pairs.dispatch(x_BVD), weight_UED))

    assert torch.autograd.gradcheck(pooled, [x_BVD, weight_UED])


@LAYOUTS
def test_grouped_linear_with_nothing_open(layout: AnyPairs) -> None:
    pairs = layout(torch.zeros(B, U, V, dtype=torch.float64))
    rows = pairs.grouped_linear(pairs.dispatch(randn_pairs(B, V, D, seed=2)), randn_pairs(U, E, D, seed=4))
    assert torch.equal(pairs.combine(rows), torch.zeros(B, V, E, dtype=torch.float64))


@LAYOUTS
@pytest.mark.parametrize("per_function", [True, False])
def test_attention(layout: AnyPairs, per_function: bool) -> None:
    """Within each function and sample, with positions of the function or of all, and multiplicity."""
    heads, c_BUV = 2, random_compatibilities()
    x_BVD, value_UD = randn_pairs(B, V, heads * D, seed=2), randn_pairs(U, heads * D, seed=3)
    position_UHVV = randn_pairs(U if per_function else 1, heads, V, V, seed=5)
    multiplicity_V = torch.tensor([3.0, 1, 1, 1, 1], dtype=torch.float64)
    pairs = layout(c_BUV, multiplicity_V)
    query, key, value = (
        pairs.modulated_linear(
            rows_by_element_and_function(pairs, x_BVD, value_UD), Modulation(ModulatedMap(weight, value_UD, None))
        ).unflatten(-1, (heads, -1))
        for weight in (randn_pairs(heads * E, heads * D, seed=n) for n in (6, 7, 8))
    )
    attended = rows_of_open_pairs(pairs.attention(query, key, value, position_UHVV), c_BUV, layout)
    queries, keys, values = (rows_of_open_pairs(rows, c_BUV, layout) for rows in (query, key, value))
    places = open_pair_indices(c_BUV)
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
def test_combine(layout: AnyPairs) -> None:
    c_BUV, x_BVD, value_UD = random_compatibilities(), randn_pairs(B, V, D, seed=2), randn_pairs(U, D, seed=3)
    pairs = layout(c_BUV)
    pooled_BVD = pairs.combine(rows_by_element_and_function(pairs, x_BVD, value_UD))
    for b in range(B):
        for i in range(V):
            expected = torch.stack([c_BUV[b, u, i] * (x_BVD[b, i] + value_UD[u]) for u in range(U)]).sum(dim=0)
            torch.testing.assert_close(pooled_BVD[b, i], expected)


def test_packed_rows_are_the_open_pairs_only() -> None:
    c_BUV = random_compatibilities()
    assert len(PackedPairs(c_BUV).dispatch(randn_pairs(B, V, D, seed=2))) == len(open_pair_indices(c_BUV)) < B * U * V


@LAYOUTS
def test_to_dense_and_from_dense(layout: AnyPairs) -> None:
    """Rows are moved to the places of their pairs and back; closed places are 0, whatever a dense row holds there."""
    c_BUV, x_BVD, value_UD = random_compatibilities(), randn_pairs(B, V, D, seed=2), randn_pairs(U, D, seed=3)
    pairs = layout(c_BUV)
    placed_BUVD = pairs.to_dense(rows_by_element_and_function(pairs, x_BVD, value_UD))
    expected_BUVD = (x_BVD[:, None] + value_UD[None, :, None]) * (c_BUV > 0).unsqueeze(-1)
    torch.testing.assert_close(placed_BUVD, expected_BUVD, rtol=0, atol=0)
    other_BUVD = randn_pairs(B, U, V, E, seed=4)
    for row, (b, u, i) in zip(
        rows_of_open_pairs(pairs.from_dense(other_BUVD), c_BUV, layout), open_pair_indices(c_BUV), strict=True
    ):
        torch.testing.assert_close(row, other_BUVD[b, u, i], rtol=0, atol=0)


def test_to_dense_drops_nonfinite_values_of_closed_rows() -> None:
    c_BUV = random_compatibilities()
    rows_RD = torch.where(c_BUV.transpose(0, 1).unsqueeze(-1) > 0, 1.0, torch.nan)
    assert DensePairs(c_BUV).to_dense(rows_RD).isfinite().all()
