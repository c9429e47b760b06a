"""The codebook: what is replaced, and how entries learn, split and stay."""

from __future__ import annotations

import pytest
import torch
from ni_discrete_types.segment_codebook import Codebook, Replaced
from torch import Tensor

B, V, G, S, L = 3, 5, 2, 4, 7


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def book_of(entries: int = L, width: int = S, decay: float = 0.9) -> Codebook:
    book = Codebook(entries, width, decay).double()
    book.entry.copy_(randn(entries, width, seed=0))
    return book


def learn(book: Codebook, vector: Tensor, weight: Tensor | None = None) -> Replaced:
    """One step on these vectors [n, G S]."""
    replaced = book(vector)
    book.absorb(book.statistics(replaced, vector.new_ones(len(vector)) if weight is None else weight))
    return replaced


def test_each_segment_becomes_the_nearest_entry_of_one_codebook() -> None:
    book, vector = book_of(), randn(B, V, G * S, seed=1)
    replaced = book(vector)
    for b in range(B):
        for i in range(V):
            segments = [vector[b, i, g * S : (g + 1) * S] for g in range(G)]
            squares = [[float((s - e).square().sum()) for e in book.entry] for s in segments]
            nearest = [row.index(min(row)) for row in squares]
            assert replaced.number_XG[b, i].tolist() == nearest
            assert torch.equal(replaced.vector[b, i], torch.cat([book.entry[n] for n in nearest]))
            gap = sum(row[n] for row, n in zip(squares, nearest, strict=True)) / G
            assert float(replaced.gap_X[b, i]) == pytest.approx(gap, abs=1e-12)


def test_the_gap_draws_segments_to_their_entries() -> None:
    book, vector = book_of(), randn(B, G * S, seed=1).requires_grad_()
    replaced = book(vector)
    (gradient,) = torch.autograd.grad(replaced.gap_X.sum(), vector)
    torch.testing.assert_close(gradient, 2 / G * (vector - replaced.vector).detach())
    assert not replaced.vector.requires_grad


def test_statistics_are_weighted_sums_and_add_up() -> None:
    """Of the parts of a batch as of the whole; what weighs 0 may be NaN."""
    book, vector, weight = book_of(), randn(B, V, G * S, seed=1), randn(B, V, seed=2).abs()
    weight[1, 2] = 0
    vector[1, 2] = torch.nan
    found = book.statistics(book(vector), weight)
    numbers = book(vector).number_XG
    for entry in range(L):
        use, total, gap = 0.0, torch.zeros(S, dtype=torch.float64), 0.0
        for b, i, g in torch.cartesian_prod(torch.arange(B), torch.arange(V), torch.arange(G)).tolist():
            if numbers[b, i, g] == entry and weight[b, i] > 0:
                segment = vector[b, i, g * S : (g + 1) * S]
                use += float(weight[b, i])
                total += weight[b, i] * segment
                gap += float(weight[b, i] * (segment - book.entry[entry]).square().sum())
        assert float(found["use"][entry]) == pytest.approx(use)
        torch.testing.assert_close(found["total"][entry], total)
        assert float(found["gap"][entry]) == pytest.approx(gap)
    parts = [book.statistics(book(vector[b : b + 1]), weight[b : b + 1]) for b in range(B)]
    for name, value in found.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_the_first_steps_weigh_alike() -> None:
    """An entry is the mean of what it replaced, of both steps; one step is a step of Lloyd's algorithm."""
    book = book_of(entries=2, decay=0.5)
    book.entry.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, S))
    first, second = randn(6, S, seed=3).abs() + 1, randn(6, S, seed=4).abs() + 1
    learn(book, torch.cat([first, -first]))
    torch.testing.assert_close(book.entry, torch.stack([-first.mean(dim=0), first.mean(dim=0)]))
    learn(book, torch.cat([second, -second]))
    mean = first.mean(dim=0) / 3 + 2 * second.mean(dim=0) / 3  # 0.5 * 0.5 to 0.5
    torch.testing.assert_close(book.entry[1], mean)


def test_one_entry_becomes_many() -> None:
    """Though all segments are nearest to one entry at the start, eight clusters end with entries of their own."""
    centre = 2 * randn(8, S, seed=5) + 50
    book = book_of(entries=12, decay=0.9)
    for step in range(60):
        vector = (centre[:, None] + 0.1 * randn(8, 5, S, seed=100 + step)).flatten(0, 1)
        replaced = learn(book, vector)
        if step == 0:
            assert len(replaced.number_XG.unique()) == 1
            assert float(replaced.gap_X.mean()) > 100
    assert float(book(vector).gap_X.mean()) < 2 * S * 0.01  # pyright: ignore[reportPossiblyUnboundVariable]
    assert len(book(centre).number_XG.unique()) == 8


def test_an_idle_entry_takes_half_of_a_busy_one() -> None:
    """One deviation beside it, at once; averages stay consistent, so that the next step keeps what was done."""
    book = book_of(entries=3, decay=0.9)
    book.entry.copy_(torch.tensor([[0.0], [100], [-100]]).expand(3, S))
    vector = torch.cat([torch.eye(S, dtype=torch.float64), -torch.eye(S, dtype=torch.float64)])
    learn(book, vector)
    torch.testing.assert_close(book.entry[0], torch.zeros(S, dtype=torch.float64))
    assert float(book.entry[1].norm()) == pytest.approx((1 / S) ** 0.5)
    assert book.entry[2].tolist() == [-100] * S  # one at a time: a single entry is used more than evenly
    assert float(book.use[0]) == pytest.approx(float(book.use[1]))
    torch.testing.assert_close(book.use[:2].unsqueeze(-1) * book.entry[:2], book.total[:2])
    assert float(book.use.sum() / book.seen) == pytest.approx(3)


def test_a_busy_codebook_is_left_alone() -> None:
    book = book_of(entries=4, decay=0.9)
    before = book.entry.clone()
    learn(book, before.repeat(3, 1))
    torch.testing.assert_close(book.entry, before)
    torch.testing.assert_close(book.use / book.seen, torch.ones(4, dtype=torch.float64))


def test_nothing_replaced_moves_nothing() -> None:
    """At the start and later: neither entries nor averages."""
    book, vector = book_of(entries=40), randn(9, G * S, seed=1)  # so many that most are idle
    for _ in range(2):
        before = {name: value.clone() for name, value in book.state_dict().items()}
        learn(book, vector, torch.zeros(9, dtype=torch.float64))
        assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())
        learn(book, vector)
        assert not torch.equal(book.entry, before["entry"])


def test_no_generator_is_drawn_from() -> None:
    books = [book_of(), book_of()]
    state = torch.get_rng_state()
    for book in books:
        learn(book, randn(9, G * S, seed=1))
    assert torch.equal(*(book.entry for book in books))
    assert torch.equal(state, torch.get_rng_state())


def test_half_precision_changes_neither_numbers_nor_counts() -> None:
    """More segments than bf16 can count, and entries closer to each other than it can tell."""
    book = Codebook(2, 1, 0.9)
    book.entry.copy_(torch.tensor([[1.0], [1.001]]))
    vector = torch.tensor([[1.0], [1.001]]).repeat(1500, 1)
    with torch.autocast("cpu", torch.bfloat16):
        replaced = book(vector)
        statistics = book.statistics(replaced, torch.ones(3000))
    assert replaced.number_XG.flatten().tolist() == [0, 1] * 1500
    assert statistics["use"].tolist() == [1500, 1500]
    assert book(vector.bfloat16()).vector.dtype == torch.float32
