"""Both routers against plain loops, and what they promise about ties, masks, samples, layouts and learning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from ni_sparse_routers.affinity import AffinityRouter
from ni_sparse_routers.expert_choice import ExpertChoice
from ni_sparse_routers.top_k import TopK
from torch import Tensor

from ni_framework import build_model, load_recipe
from ni_framework.contracts import Answer, Context, Sizes
from ni_framework.errors import RecipeError
from ni_framework.model.noise import KeyedNoise
from ni_framework.nn.kernel import unit
from ni_framework.nn.random import keys
from ni_framework.recipe import Recipe
from ni_framework.testing import conformance
from ni_framework.training.train import train

B, U, V, T = 3, 5, 7, 6
SIZES = Sizes(width=8, functions=U, code=4, type=T, grid=None)
RECIPE = """\
ni: 1
requires: ["ni-sparse-routers>=0.1"]
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 3
  functions: 5
  code: 6
  type: 4
  body: {use: lines_of_code, heads: 2, key: 3}
data: {use: digits}
train: {steps: 3, batch: 8}
"""

test_conformance_of_top_k = conformance(TopK)
test_conformance_of_top_k_of_all = conformance(TopK, k=1, share="all")
test_conformance_of_expert_choice = conformance(ExpertChoice, capacity=1.5)


def small_recipe(folder: Path, router: str, *overrides: str) -> Recipe:
    """The small recipe with a router such as `{use: top_k, k: 2}`, written to a folder and read from there."""
    path = folder / "small.yaml"
    path.write_text(RECIPE)
    return load_recipe(path, [f"model.router={router}", *overrides])


def no_build(*_: Any) -> Any:
    raise AssertionError("these routers hold no other component")


def top_k(k: int = 2, share: Any = "chosen", bandwidth: float = 0.5) -> TopK:
    options = TopK.Config(k=k, share=share, bandwidth=bandwidth, balance=1.0, z=1.0)
    return TopK(options, SIZES, no_build).double()


def expert_choice(capacity: float = 2.0, bandwidth: float = 0.5) -> ExpertChoice:
    return ExpertChoice(ExpertChoice.Config(capacity=capacity, bandwidth=bandwidth, z=1.0), SIZES, no_build).double()


ROUTERS = pytest.mark.parametrize(
    "router",
    [top_k(1, "all"), top_k(2), top_k(3, "all"), top_k(U), *(expert_choice(capacity) for capacity in (0.1, 1, 2, U))],
    ids=lambda router: f"{type(router).__name__}-{getattr(router, 'capacity', None) or router.config.k}",
)
MASKED = pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])


def types_and_signatures(seed: int = 0, batch: int = B) -> tuple[Tensor, Tensor]:
    """[B, V, T] and [U, T] in float64, of length one, to differentiate by."""
    generator = torch.Generator().manual_seed(seed)
    type_BVT = unit(torch.randn(batch, V, T, generator=generator, dtype=torch.float64))
    signature_UT = unit(torch.randn(U, T, generator=generator, dtype=torch.float64))
    return type_BVT.requires_grad_(), signature_UT.requires_grad_()


def context(present_BV: Tensor | None = None, batch: int = B) -> Context:
    return Context(0, present_BV, KeyedNoise(keys(0, torch.arange(batch)), 0, 0))


def some_present() -> Tensor:
    """A mask [B, V] with different numbers of elements, and a sample without any."""
    present_BV = torch.ones(B, V, dtype=torch.bool)
    present_BV[0, [1, 4]] = False
    present_BV[2] = False
    return present_BV


def compatibility(router: AffinityRouter, type_BVT: Tensor, signature_UT: Tensor, at: Context) -> Tensor:
    return router(type_BVT, signature_UT, at).result.detach()


def weighted(value: Tensor) -> Tensor:
    """A scalar in which every number counts differently."""
    return (value * torch.arange(1, value.numel() + 1, dtype=value.dtype).sin().view_as(value)).sum()


def best(value: Sequence[Tensor] | dict[int, Tensor], among: Sequence[int], number: int) -> list[int]:
    return sorted(among, key=lambda place: -value[place].item())[:number]


def reference(router: AffinityRouter, type_BVT: Tensor, signature_UT: Tensor, present_BV: Tensor | None) -> Answer:
    """One sample, one element, one function after the other; what is masked is left out."""
    zero = torch.zeros((), dtype=torch.float64)
    found = [[[zero] * V for _ in range(U)] for _ in range(B)]
    balance = squares = zero
    for b in range(B):
        elements = [i for i in range(V) if present_BV is None or present_BV[b, i]]
        kernel = {
            i: [((signature_UT[u] * type_BVT[b, i]).sum() / router.log_bandwidth.exp()).exp() for u in range(U)]
            for i in elements
        }
        total = {i: torch.stack(kernel[i]).sum() for i in elements}
        share = [{i: kernel[i][u] / total[i] for i in elements} for u in range(U)]
        count = max(len(elements), 1)
        squares = squares + torch.stack([zero, *(total[i].log() ** 2 for i in elements)]).sum() / count
        if isinstance(router, TopK):
            k = router.config.k
            chosen = {i: best(kernel[i], range(U), k) for i in elements}
            for i in elements:
                whole = total[i] if router.config.share == "all" else torch.stack(kernel[i])[chosen[i]].sum()
                for u in chosen[i]:
                    found[b][u][i] = kernel[i][u] / whole
            for u in range(U):
                used = sum(u in chosen[i] for i in elements) / k / count
                balance = balance + U * used * torch.stack([zero, *share[u].values()]).sum() / count
        elif isinstance(router, ExpertChoice):
            for u in range(U):
                for i in best(share[u], elements, max(math.ceil(router.capacity * len(elements) / U), 1)):
                    found[b][u][i] = share[u][i]
    losses = {"balance": balance / B} if isinstance(router, TopK) else {}
    result_BUV = torch.stack([torch.stack([torch.stack(row) for row in rows]) for rows in found])
    return Answer(result_BUV, losses | {"router_z": squares / B})


@ROUTERS
@MASKED
def test_against_plain_loops(router: AffinityRouter, masked: bool) -> None:
    """Compatibilities, losses and all gradients, to the last digits; the script closes what is masked."""
    present_BV = some_present() if masked else None
    type_BVT, signature_UT = types_and_signatures()
    leaves = [type_BVT, signature_UT, router.log_bandwidth]
    outcomes = []
    for answer in (
        router(type_BVT, signature_UT, context(present_BV)),
        reference(router, type_BVT, signature_UT, present_BV),
    ):
        result_BUV = answer.result if present_BV is None else answer.result * present_BV.unsqueeze(1)
        parts = {"result": weighted(result_BUV), **answer.losses}
        gradients = [torch.autograd.grad(part, leaves, retain_graph=True) for part in parts.values()]
        outcomes.append([result_BUV, *parts.values(), *(gradient for of_part in gradients for gradient in of_part)])
    torch.testing.assert_close(*outcomes, rtol=1e-9, atol=1e-11)


@ROUTERS
def test_order_of_functions_and_elements_does_not_matter(router: AffinityRouter) -> None:
    """Also where elements are equal up to rounding, or functions: they are taken together."""
    type_BVT, signature_UT = (of.detach().clone() for of in types_and_signatures())
    type_BVT[:, 3] = type_BVT[:, 5] * (1 + 1e-9)
    signature_UT[1] = signature_UT[2] * (1 - 1e-9)
    functions, elements = torch.tensor([3, 0, 4, 2, 1]), torch.tensor([6, 2, 0, 1, 3, 4, 5])
    found = compatibility(router, type_BVT, signature_UT, context())
    permuted = compatibility(router, type_BVT[:, elements], signature_UT[functions], context())
    torch.testing.assert_close(permuted, found[:, functions][:, :, elements])
    torch.testing.assert_close(found[:, :, 3], found[:, :, 5])
    torch.testing.assert_close(found[:, 1], found[:, 2])


@ROUTERS
@MASKED
def test_a_sample_is_routed_by_itself(router: AffinityRouter, masked: bool) -> None:
    """Its losses too: those of a batch are the mean of its samples', so that it may be divided."""
    type_BVT, signature_UT = types_and_signatures()
    present_BV = some_present() if masked else None
    whole = router(type_BVT, signature_UT, context(present_BV))
    alone = [
        router(type_BVT[[b]], signature_UT, context(None if present_BV is None else present_BV[[b]], batch=1))
        for b in range(B)
    ]
    torch.testing.assert_close(whole.result, torch.cat([answer.result for answer in alone]))
    for name, loss in whole.losses.items():
        torch.testing.assert_close(loss, torch.stack([answer.losses[name] for answer in alone]).mean())


@ROUTERS
def test_masked_elements_do_not_compete_or_count(router: AffinityRouter) -> None:
    """A sample with masked elements is as one that lacks them, however well they would be liked."""
    type_BVT, signature_UT = types_and_signatures()
    present_V = some_present()[0]
    loved_BVT = torch.where(present_V.unsqueeze(-1), type_BVT, signature_UT[0])[:1]
    found = router(loved_BVT, signature_UT, context(present_V.unsqueeze(0), batch=1))
    short = router(type_BVT[:1, present_V], signature_UT, context(batch=1))
    torch.testing.assert_close(found.result[..., present_V], short.result)
    torch.testing.assert_close(found.losses, short.losses)


def test_k_functions_take_an_element() -> None:
    """The others have exactly 0; what is left sums to 1 over the chosen, or to less if all share."""
    found = compatibility(top_k(2), *types_and_signatures(), context())
    assert torch.equal((found > 0).sum(dim=1), torch.full((B, V), 2))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(B, V, dtype=torch.float64))
    assert float(compatibility(top_k(2, "all"), *types_and_signatures(), context()).sum(dim=1).max()) < 1


@pytest.mark.parametrize(("capacity", "taken"), [(0.1, 1), (1.0, 2), (2.0, 3), (float(U), V)])
def test_functions_take_equally_many(capacity: float, taken: int) -> None:
    """ceil(capacity * V / U), at least one; an element gets at most 1 in sum, and may be taken by none."""
    found = compatibility(expert_choice(capacity), *types_and_signatures(), context())
    assert torch.equal((found > 0).sum(dim=2), torch.full((B, U), taken))
    assert float(found.sum(dim=1).max()) <= 1 + 1e-12
    assert bool((found == 0).all(dim=1).any()) == (capacity <= 1)


def test_balance_means_what_it_says() -> None:
    """Even use costs 1, a single function that takes all costs U; evaluation costs nothing."""
    signature_UT = torch.eye(U, T, dtype=torch.float64)
    sharp = top_k(1, "all", bandwidth=0.01)
    even, one = signature_UT.expand(B, U, T), signature_UT[:1].expand(B, V, T)
    assert sharp(even, signature_UT, context()).losses["balance"].item() == pytest.approx(1)
    assert sharp(one, signature_UT, context()).losses["balance"].item() == pytest.approx(U)
    assert top_k().eval()(even, signature_UT, context()).losses == {}
    assert expert_choice().eval()(even, signature_UT, context()).losses == {}


def test_bandwidth_starts_where_the_recipe_says() -> None:
    for router in (top_k(bandwidth=0.7), expert_choice(bandwidth=0.7)):
        assert router.log_bandwidth.item() == pytest.approx(math.log(0.7))


def test_one_function_needs_no_choice() -> None:
    router = TopK(TopK.Config(k=1), evolve(SIZES, functions=1), no_build).double()
    type_BVT, signature_UT = types_and_signatures()
    assert bool((compatibility(router, type_BVT, signature_UT[:1], context()) == 1).all())


IN_RECIPES = pytest.mark.parametrize(
    "router", ["top_k", "{use: top_k, k: 1, share: all}", "expert_choice", "{use: expert_choice, capacity: 0.5}"]
)


def outcome(recipe: Recipe, execution: str) -> dict[str, Tensor]:
    """A script's output in one layout, in float64 and under masks, and the gradients of its parameters."""
    script = next(iter(build_model(recipe).double().scripts))
    script.set_execution(execution)
    generator = torch.Generator().manual_seed(1)
    x_BVD = torch.randn(B, V, recipe.model.width, generator=generator, dtype=torch.float64).requires_grad_()
    passage = script(x_BVD, some_present(), key_B=torch.arange(B))
    torch.stack([weighted(passage.output_BVD), *passage.losses.values()]).sum().backward()
    named = {"input": x_BVD, **dict(script.named_parameters())}
    return {"output": passage.output_BVD} | {name: of.grad for name, of in named.items() if of.grad is not None}


@IN_RECIPES
def test_layouts_agree(tmp_path: Path, router: str) -> None:
    """Outputs and gradients of open pairs alone are those of all; and the router learns."""
    recipe = small_recipe(tmp_path, router)
    dense = outcome(recipe, "dense")
    torch.testing.assert_close(outcome(recipe, "packed"), dense, rtol=1e-9, atol=1e-9)
    for name in ("router.log_bandwidth", "embedding.signature", "type_inference.layers.1.weight"):
        assert dense[name].any(), name


@IN_RECIPES
@pytest.mark.parametrize("execution", ["dense", "packed", "auto"])
def test_trains(tmp_path: Path, router: str, execution: str) -> None:
    summary = train(small_recipe(tmp_path, router, f"model.execution={execution}"), tmp_path / "run")
    assert math.isfinite(summary["metrics"]["test/loss"])


CANNOT_WORK = [
    (
        "{use: top_k, k: 6}",
        [
            "model.router.k: an element cannot go to 6 of 5 functions",
            "choose at most 5, or raise the number of functions",
        ],
    ),
    (
        "{use: top_k, k: 1}",
        [
            "model.router.share: with k 1, the one chosen function takes all of an element",
            "use `share: all`, as Switch",
        ],
    ),
    (
        "{use: expert_choice, capacity: 5.5}",
        [
            "model.router.capacity: 5 functions cannot take 5.5 times the elements there are",
            "choose at most 5, at which",
        ],
    ),
]


@pytest.mark.parametrize(("router", "words"), CANNOT_WORK)
def test_options_that_cannot_work(tmp_path: Path, router: str, words: list[str]) -> None:
    """What, where, and what to do."""
    with pytest.raises(RecipeError) as found:
        build_model(small_recipe(tmp_path, router))
    for word in words:
        assert word in str(found.value)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_recipes_train(tmp_path: Path, path: Path) -> None:
    assert math.isfinite(train(load_recipe(path, ["train.steps=3"]), tmp_path / "run")["metrics"]["test/loss"])
