"""The codebook: nearest entries, statistics, updates and splits of entries."""

from __future__ import annotations

import pytest
import torch
from ni_discrete_types.segment_codebook import QuantisedSegments, SegmentCodebook
from torch import Tensor

B, V, G, S, L = 3, 5, 2, 4, 7


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_codebook(entries: int = L, width: int = S, decay: float = 0.9) -> SegmentCodebook:
    book = SegmentCodebook(entries, width, decay).double()
    book.entry.copy_(randn(entries, width, seed=0))
    return book


def update_once(book: SegmentCodebook, vector: Tensor, weight: Tensor | None = None) -> QuantisedSegments:
    """Replaces vectors [n, G S] and updates the codebook once."""
    replaced = book(vector)
    book.update_buffers(book.statistics(replaced, vector.new_ones(len(vector)) if weight is None else weight))
    return replaced


def test_segments_are_replaced_by_nearest_entries() -> None:
    book, vector = make_codebook(), randn(B, V, G * S, seed=1)
    replaced = book(vector)
    for b in range(B):
        for i in range(V):
            segments = [vector[b, i, g * S : (g + 1) * S] for g in range(G)]
            squares = [[float((s - e).square().sum()) for e in book.entry] for s in segments]
            nearest = [row.index(min(row)) for row in squares]
            assert replaced.index_XG[b, i].tolist() == nearest
            assert torch.equal(replaced.vector[b, i], torch.cat([book.entry[n] for n in nearest]))
            gap = sum(row[n] for row, n in zip(squares, nearest, strict=True)) / G
            assert float(replaced.gap_X[b, i]) == pytest.approx(gap, abs=1e-12)


def test_gradient_of_gap() -> None:
    book, vector = make_codebook(), randn(B, G * S, seed=1).requires_grad_()
    replaced = book(vector)
    (gradient,) = torch.autograd.grad(replaced.gap_X.sum(), vector)
    torch.testing.assert_close(gradient, 2 / G * (vector - replaced.vector).detach())
    assert not replaced.vector.requires_grad


def test_statistics_are_weighted_sums() -> None:
    """Statistics of samples add up to those of the batch; vectors with weight 0 may be NaN."""
    book, vector, weight = make_codebook(), randn(B, V, G * S, seed=1), randn(B, V, seed=2).abs()
    weight[1, 2] = 0
    vector[1, 2] = torch.nan
    statistics = book.statistics(book(vector), weight)
    numbers = book(vector).index_XG
    for entry in range(L):
        use, total, gap = 0.0, torch.zeros(S, dtype=torch.float64), 0.0
        for b, i, g in torch.cartesian_prod(torch.arange(B), torch.arange(V), torch.arange(G)).tolist():
            if numbers[b, i, g] == entry and weight[b, i] > 0:
                segment = vector[b, i, g * S : (g + 1) * S]
                use += float(weight[b, i])
                total += weight[b, i] * segment
                gap += float(weight[b, i] * (segment - book.entry[entry]).square().sum())
        assert float(statistics["use"][entry]) == pytest.approx(use)
        torch.testing.assert_close(statistics["total"][entry], total)
        assert float(statistics["gap"][entry]) == pytest.approx(gap)
    parts = [book.statistics(book(vector[b : b + 1]), weight[b : b + 1]) for b in range(B)]
    for name, value in statistics.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_averages_are_corrected_for_their_start() -> None:
    """The first step is a step of Lloyd's algorithm; after the second, entries are weighted means of both steps."""
    book = make_codebook(entries=2, decay=0.5)
    book.entry.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, S))
    first, second = randn(6, S, seed=3).abs() + 1, randn(6, S, seed=4).abs() + 1
    update_once(book, torch.cat([first, -first]))
    torch.testing.assert_close(book.entry, torch.stack([-first.mean(dim=0), first.mean(dim=0)]))
    update_once(book, torch.cat([second, -second]))
    # The weights are 0.5 * 0.5 and 0.5, divided by their sum.
    mean = first.mean(dim=0) / 3 + 2 * second.mean(dim=0) / 3
    torch.testing.assert_close(book.entry[1], mean)


def test_entries_split_until_each_cluster_has_one() -> None:
    """At the start all segments have the same nearest entry; in the end each of eight clusters has its own."""
    centre = 2 * randn(8, S, seed=5) + 50
    book = make_codebook(entries=12, decay=0.9)
    for step in range(60):
        vector = (centre[:, None] + 0.1 * randn(8, 5, S, seed=100 + step)).flatten(0, 1)
        replaced = update_once(book, vector)
        if step == 0:
            assert len(replaced.index_XG.unique()) == 1
            assert float(replaced.gap_X.mean()) > 100
    assert float(book(vector).gap_X.mean()) < 2 * S * 0.01  # pyright: ignore[reportPossiblyUnboundVariable]
    assert len(book(centre).index_XG.unique()) == 8


def test_idle_entry_takes_half_of_the_use_of_a_busy_one() -> None:
    """It is placed one standard deviation away; averages stay consistent, so that the next step does not undo the split."""
    book = make_codebook(entries=3, decay=0.9)
    book.entry.copy_(torch.tensor([[0.0], [100], [-100]]).expand(3, S))
    vector = torch.cat([torch.eye(S, dtype=torch.float64), -torch.eye(S, dtype=torch.float64)])
    update_once(book, vector)
    torch.testing.assert_close(book.entry[0], torch.zeros(S, dtype=torch.float64))
    assert float(book.entry[1].norm()) == pytest.approx((1 / S) ** 0.5)
    # Only one entry is placed, because only one has more than an even share of use.
    assert book.entry[2].tolist() == [-100] * S
    assert float(book.use[0]) == pytest.approx(float(book.use[1]))
    torch.testing.assert_close(book.use[:2].unsqueeze(-1) * book.entry[:2], book.total[:2])
    assert float(book.use.sum() / book.seen) == pytest.approx(3)


def test_evenly_used_entries_stay() -> None:
    book = make_codebook(entries=4, decay=0.9)
    before = book.entry.clone()
    update_once(book, before.repeat(3, 1))
    torch.testing.assert_close(book.entry, before)
    torch.testing.assert_close(book.use / book.seen, torch.ones(4, dtype=torch.float64))


def test_update_without_replaced_vectors_changes_nothing() -> None:
    """Neither entries nor averages change, at the start and later."""
    # With this number of entries most are idle.
    book, vector = make_codebook(entries=40), randn(9, G * S, seed=1)
    for _ in range(2):
        before = {name: value.clone() for name, value in book.state_dict().items()}
        update_once(book, vector, torch.zeros(9, dtype=torch.float64))
        assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())
        update_once(book, vector)
        assert not torch.equal(book.entry, before["entry"])


def test_global_generator_is_not_used() -> None:
    books = [make_codebook(), make_codebook()]
    state = torch.get_rng_state()
    for book in books:
        update_once(book, randn(9, G * S, seed=1))
    assert torch.equal(*(book.entry for book in books))
    assert torch.equal(state, torch.get_rng_state())


def test_autocast_does_not_round_distances_and_counts() -> None:
    """There are more segments than bf16 can count, and entries that are equal after rounding to bf16."""
    book = SegmentCodebook(2, 1, 0.9)
    book.entry.copy_(torch.tensor([[1.0], [1.001]]))
    vector = torch.tensor([[1.0], [1.001]]).repeat(1500, 1)
    with torch.autocast("cpu", torch.bfloat16):
        replaced = book(vector)
        statistics = book.statistics(replaced, torch.ones(3000))
    assert replaced.index_XG.flatten().tolist() == [0, 1] * 1500
    assert statistics["use"].tolist() == [1500, 1500]
    assert book(vector.bfloat16()).vector.dtype == torch.float32
