"""The router wrapper `quantised` and its codebook."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ni_standard.routers.codebook import UnitCodebook

from ni_framework.contracts import Output
from ni_framework.data.sampler import EpochSampler
from ni_framework.engines.local import LocalEngine
from ni_framework.model.compose import build_data, build_model
from ni_framework.nn.kernel import to_unit_length
from tests.helpers.routers import T, U, V, build_router, make_context, random_types_and_signatures
from tests.helpers.small_recipe import load_small_recipe


def build_codebook(size: int = 5, decay: float = 0.9) -> UnitCodebook:
    torch.manual_seed(0)
    return UnitCodebook(size, T, decay).double()


def test_vectors_are_replaced_by_the_nearest_entry_and_gradients_pass() -> None:
    book, (type_BVT, _) = build_codebook(), random_types_and_signatures()
    type_BVT.requires_grad_()
    replaced, number_BV = book(type_BVT)
    distances = (type_BVT[:, :, None] - book.entry).square().sum(dim=-1)
    assert torch.equal(number_BV, distances.argmin(dim=-1))
    assert torch.equal(replaced.detach(), book.entry[number_BV])
    weight = torch.randn_like(replaced)
    (replaced * weight).sum().backward()
    torch.testing.assert_close(type_BVT.grad, weight)


def test_entries_follow_the_vectors_that_they_replace() -> None:
    """For vectors around three directions, the entries converge to these, and the distances decrease."""
    generator = torch.Generator().manual_seed(1)
    centre = to_unit_length(torch.randn(3, T, generator=generator, dtype=torch.float64))
    book = build_codebook(size=6)
    gaps, number = [], torch.empty(0)
    for _ in range(200):
        noise = 0.05 * torch.randn(3, 20, T, generator=generator, dtype=torch.float64)
        vector = to_unit_length(centre[:, None] + noise).flatten(0, 1)
        replaced, number = book(vector)
        gaps.append(float((replaced - vector).square().sum(dim=-1).mean()))
        book.update_buffers(book.statistics(vector, number, torch.ones(len(vector), dtype=torch.float64)))
    used = number.unique()
    assert gaps[-1] < 0.1 * gaps[0]
    assert bool(((book.entry[used] @ centre.T).max(dim=1).values > 0.99).all())
    assert set((book.entry[used] @ centre.T).argmax(dim=1).tolist()) == {0, 1, 2}


def test_idle_entry_is_placed_next_to_the_busiest() -> None:
    book = build_codebook(size=4, decay=0.0)
    vector = book.entry[2].expand(10, -1)
    book.update_buffers(book.statistics(vector, torch.full((10,), 2), torch.ones(10, dtype=torch.float64)))
    nearest = (book.entry @ vector[0]) > 0.99
    assert int(nearest.sum()) >= 2
    torch.testing.assert_close(book.entry.norm(dim=1), torch.ones(4, dtype=torch.float64))
    # The busy entry passed half of its use to the first idle one; sums match entries, so that the next step keeps them.
    assert book.use[2] == 2
    assert int((book.use == 2).sum()) == 2
    torch.testing.assert_close(book.total, book.use.unsqueeze(-1) * book.entry)


def test_use_is_measured_in_even_shares() -> None:
    """For any batch size, entries that are used equally have a use of 1."""
    book = build_codebook(size=4, decay=0.5)
    number = torch.arange(4).repeat(25)
    book.update_buffers(book.statistics(book.entry[number], number, torch.ones(100, dtype=torch.float64)))
    torch.testing.assert_close(book.use, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(book.total, book.entry)


def test_commitment_is_the_weighted_mean_squared_distance() -> None:
    """It is the sum of the means over types and over signatures; its gradient pulls them to their entries."""
    router = build_router("{use: quantised, commitment: 0.3, inner: {use: kernel, truncation: 2}}").train()
    vectors = [vector.requires_grad_() for vector in random_types_and_signatures()]
    loss = Output.wrap(router(*vectors, make_context())).aux_losses["commitment"]
    entries = [router.codebook(vector)[0].detach() for vector in vectors]  # pyright: ignore[reportCallIssue]
    gaps = [(v - e).square().sum(dim=-1).mean() for v, e in zip(vectors, entries, strict=True)]
    torch.testing.assert_close(loss, 0.3 * (gaps[0] + gaps[1]))
    for vector, entry, gradient in zip(vectors, entries, torch.autograd.grad(loss, vectors), strict=True):
        assert float((gradient * (entry - vector.detach())).sum()) < 0


def test_masked_elements_do_not_count() -> None:
    router = build_router("{use: quantised, what: types, inner: {use: kernel, truncation: 2}}").train()
    type_BVT, signature_UT = random_types_and_signatures()
    present_BV = torch.rand(type_BVT.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.5
    other_BVT = torch.where(present_BV.unsqueeze(-1), type_BVT, random_types_and_signatures(9)[0])
    outputs = [Output.wrap(router(t, signature_UT, make_context(present=present_BV))) for t in (type_BVT, other_BVT)]
    torch.testing.assert_close(outputs[0].aux_losses["commitment"], outputs[1].aux_losses["commitment"])
    for name in ("codebook_use", "codebook_total"):
        torch.testing.assert_close(outputs[0].statistics[name], outputs[1].statistics[name])
    assert outputs[0].statistics["codebook_use"].sum() == present_BV.sum()


@pytest.mark.parametrize(("what", "count"), [("types", 3 * V), ("signatures", 3 * U), ("both", 3 * V + 3 * U)])
def test_what_is_quantised(what: str, count: int) -> None:
    router = build_router(f"{{use: quantised, what: {what}, inner: {{use: kernel, truncation: 2}}}}").train()
    output = Output.wrap(router(*random_types_and_signatures(), make_context()))
    assert output.statistics["codebook_use"].sum() == count
    assert output.aux_losses["commitment"] > 0
    assert not Output.wrap(router.eval()(*random_types_and_signatures(), make_context())).aux_losses


def test_training_updates_the_codebook_and_evaluation_does_not(tmp_path: Path) -> None:
    """The engine passes statistics back to the router; micro-batches give the same update as one batch."""
    entries = []
    for micro_batches in (1, 4):
        recipe = load_small_recipe(
            tmp_path,
            "model.router={use: function_dropout, keep: 1, inner: {use: quantised, size: 7, decay: 0.5}}",
            f"train.micro_batches={micro_batches}",
            "train.steps=1",
        )
        model = build_model(recipe)
        name = "scripts.0.router.inner.codebook.entry"
        before = model.state_dict()[name].clone()
        engine, order = LocalEngine(model, recipe), EpochSampler(build_data(recipe).open()["train"], 8, 0)
        model.eval()
        model(order[0].inputs)
        assert torch.equal(model.state_dict()[name], before)
        step = engine.step(0, order[0], trace=False)
        assert step.values["commitment"] > 0
        entries.append(model.state_dict()[name].clone())
        assert not torch.allclose(entries[-1], before)
    torch.testing.assert_close(*entries, atol=1e-5, rtol=1e-4)


def test_nested_codebooks(tmp_path: Path) -> None:
    """Each codebook receives its own statistics, though the names are the same."""
    router = "model.router={use: quantised, size: 7, inner: {use: quantised, size: 5}}"
    recipe = load_small_recipe(tmp_path, router, "train.steps=1")
    model = build_model(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("codebook.entry")}
    LocalEngine(model, recipe).step(0, EpochSampler(build_data(recipe).open()["train"], 8, 0)[0], trace=False)
    assert len(before) == 2
    assert all(not torch.equal(model.state_dict()[name], value) for name, value in before.items())
