"""Codebooks: what is replaced, how entries learn, and that training moves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ni_standard.routers.codebook import Codebook

from ni_framework.contracts import Answer
from ni_framework.data.sampler import Order
from ni_framework.engines.local import LocalEngine
from ni_framework.model.compose import build_data, build_model
from ni_framework.nn.kernel import unit
from tests.helpers.routers import T, U, V, context, router_of, types_and_signatures
from tests.helpers.small_recipe import small_recipe


def codebook(size: int = 5, decay: float = 0.9) -> Codebook:
    torch.manual_seed(0)
    return Codebook(size, T, decay).double()


def test_vectors_become_the_nearest_entry_and_gradients_pass() -> None:
    book, (type_BVT, _) = codebook(), types_and_signatures()
    type_BVT.requires_grad_()
    found, number_BV = book(type_BVT)
    distances = (type_BVT[:, :, None] - book.entry).square().sum(dim=-1)
    assert torch.equal(number_BV, distances.argmin(dim=-1))
    assert torch.equal(found.detach(), book.entry[number_BV])
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    torch.testing.assert_close(type_BVT.grad, weight)


def test_entries_follow_the_vectors_that_they_replace() -> None:
    """Vectors around three directions: the entries end there, and the commitment loss falls."""
    generator = torch.Generator().manual_seed(1)
    centre = unit(torch.randn(3, T, generator=generator, dtype=torch.float64))
    book = codebook(size=6)
    gaps, number = [], torch.empty(0)
    for _ in range(200):
        noise = 0.05 * torch.randn(3, 20, T, generator=generator, dtype=torch.float64)
        vector = unit(centre[:, None] + noise).flatten(0, 1)
        found, number = book(vector)
        gaps.append(float((found - vector).square().sum(dim=-1).mean()))
        book.absorb(book.statistics(vector, number, torch.ones(len(vector), dtype=torch.float64)))
    used = number.unique()
    assert gaps[-1] < 0.1 * gaps[0]
    assert bool(((book.entry[used] @ centre.T).max(dim=1).values > 0.99).all())
    assert set((book.entry[used] @ centre.T).argmax(dim=1).tolist()) == {0, 1, 2}


def test_an_idle_entry_moves_beside_the_busiest() -> None:
    book = codebook(size=4, decay=0.0)
    vector = book.entry[2].expand(10, -1)
    book.absorb(book.statistics(vector, torch.full((10,), 2), torch.ones(10, dtype=torch.float64)))
    nearest = (book.entry @ vector[0]) > 0.99
    assert int(nearest.sum()) >= 2
    torch.testing.assert_close(book.entry.norm(dim=1), torch.ones(4, dtype=torch.float64))
    # The busy entry gave half of its use to the first idle one; sums agree with entries, so that the next step keeps them.
    assert book.use[2] == 2
    assert int((book.use == 2).sum()) == 2
    torch.testing.assert_close(book.total, book.use.unsqueeze(-1) * book.entry)


def test_use_is_measured_in_even_shares() -> None:
    """However large the batch: entries that are used alike have a use of 1, whose sum over all is their number."""
    book = codebook(size=4, decay=0.5)
    number = torch.arange(4).repeat(25)
    book.absorb(book.statistics(book.entry[number], number, torch.ones(100, dtype=torch.float64)))
    torch.testing.assert_close(book.use, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(book.total, book.entry)


def test_commitment_is_the_mean_square_of_what_is_missing() -> None:
    """Over types and over signatures each, times the weight; its gradient draws them to their entries."""
    router = router_of("{use: quantised, commitment: 0.3, inner: {use: kernel, truncation: 2}}").train()
    vectors = [vector.requires_grad_() for vector in types_and_signatures()]
    loss = Answer.of(router(*vectors, context())).losses["commitment"]
    entries = [router.codebook(vector)[0].detach() for vector in vectors]  # pyright: ignore[reportCallIssue]
    gaps = [(v - e).square().sum(dim=-1).mean() for v, e in zip(vectors, entries, strict=True)]
    torch.testing.assert_close(loss, 0.3 * (gaps[0] + gaps[1]))
    for vector, entry, gradient in zip(vectors, entries, torch.autograd.grad(loss, vectors), strict=True):
        assert float((gradient * (entry - vector.detach())).sum()) < 0


def test_masked_elements_do_not_count() -> None:
    router = router_of("{use: quantised, what: types, inner: {use: kernel, truncation: 2}}").train()
    type_BVT, signature_UT = types_and_signatures()
    present_BV = torch.rand(type_BVT.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.5
    other_BVT = torch.where(present_BV.unsqueeze(-1), type_BVT, types_and_signatures(9)[0])
    told = [Answer.of(router(t, signature_UT, context(present=present_BV))) for t in (type_BVT, other_BVT)]
    torch.testing.assert_close(told[0].losses["commitment"], told[1].losses["commitment"])
    for name in ("codebook_use", "codebook_total"):
        torch.testing.assert_close(told[0].statistics[name], told[1].statistics[name])
    assert told[0].statistics["codebook_use"].sum() == present_BV.sum()


@pytest.mark.parametrize(("what", "count"), [("types", 3 * V), ("signatures", 3 * U), ("both", 3 * V + 3 * U)])
def test_what_is_quantised(what: str, count: int) -> None:
    router = router_of(f"{{use: quantised, what: {what}, inner: {{use: kernel, truncation: 2}}}}").train()
    answer = Answer.of(router(*types_and_signatures(), context()))
    assert answer.statistics["codebook_use"].sum() == count
    assert answer.losses["commitment"] > 0
    assert not Answer.of(router.eval()(*types_and_signatures(), context())).losses


def test_training_moves_the_codebook_and_evaluation_does_not(tmp_path: Path) -> None:
    """Statistics travel from router to engine and back; accumulated parts give what one batch gives."""
    entries = []
    for accumulate in (1, 4):
        recipe = small_recipe(
            tmp_path,
            "model.router={use: function_dropout, keep: 1, inner: {use: quantised, size: 7, decay: 0.5}}",
            f"train.accumulate={accumulate}",
            "train.steps=1",
        )
        model = build_model(recipe)
        name = "scripts.0.router.inner.codebook.entry"
        before = model.state_dict()[name].clone()
        engine, order = LocalEngine(model, recipe), Order(build_data(recipe).open()["train"], 8, 0)
        model.eval()
        model(order[0].inputs)
        assert torch.equal(model.state_dict()[name], before)
        step = engine.step(0, order[0], trace=False)
        assert step.values["commitment"] > 0
        entries.append(model.state_dict()[name].clone())
        assert not torch.allclose(entries[-1], before)
    torch.testing.assert_close(*entries, atol=1e-5, rtol=1e-4)


def test_one_codebook_around_another(tmp_path: Path) -> None:
    """Each takes in its own statistics, though they are of one kind and one name."""
    router = "model.router={use: quantised, size: 7, inner: {use: quantised, size: 5}}"
    recipe = small_recipe(tmp_path, router, "train.steps=1")
    model = build_model(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("codebook.entry")}
    LocalEngine(model, recipe).step(0, Order(build_data(recipe).open()["train"], 8, 0)[0], trace=False)
    assert len(before) == 2
    assert all(not torch.equal(model.state_dict()[name], value) for name, value in before.items())
