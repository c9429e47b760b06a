"""Both routers: comparison with loops, ties, masks, independence of samples, layouts and training."""

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
from ni_framework.contracts import Context, Output, Sizes
from ni_framework.errors import RecipeError
from ni_framework.model.noise import KeyedNoise
from ni_framework.nn.kernel import to_unit_length
from ni_framework.nn.random import rng_keys
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
    """Writes the small recipe to a folder and loads it with a router such as `{use: top_k, k: 2}`."""
    path = folder / "small.yaml"
    path.write_text(RECIPE)
    return load_recipe(path, [f"model.router={router}", *overrides])


def no_build(*_: Any) -> Any:
    raise AssertionError("these routers contain no other component")


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
    """Returns unit vectors [B, V, T] and [U, T] in float64 that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    type_BVT = to_unit_length(torch.randn(batch, V, T, generator=generator, dtype=torch.float64))
    signature_UT = to_unit_length(torch.randn(U, T, generator=generator, dtype=torch.float64))
    return type_BVT.requires_grad_(), signature_UT.requires_grad_()


def make_context(present_BV: Tensor | None = None, batch: int = B) -> Context:
    return Context(0, present_BV, KeyedNoise(rng_keys(0, torch.arange(batch)), 0, 0))


def some_present() -> Tensor:
    """Returns a mask [B, V] with different numbers of present elements, and a sample without any."""
    present_BV = torch.ones(B, V, dtype=torch.bool)
    present_BV[0, [1, 4]] = False
    present_BV[2] = False
    return present_BV


def compatibility(router: AffinityRouter, type_BVT: Tensor, signature_UT: Tensor, at: Context) -> Tensor:
    return router(type_BVT, signature_UT, at).value.detach()


def weighted_sum(value: Tensor) -> Tensor:
    """Returns a weighted sum with a different weight for every number."""
    return (value * torch.arange(1, value.numel() + 1, dtype=value.dtype).sin().view_as(value)).sum()


def largest(value: Sequence[Tensor] | dict[int, Tensor], among: Sequence[int], number: int) -> list[int]:
    return sorted(among, key=lambda place: -value[place].item())[:number]


def reference(router: AffinityRouter, type_BVT: Tensor, signature_UT: Tensor, present_BV: Tensor | None) -> Output:
    """Computes the output sample by sample, element by element, function by function, without masked elements."""
    zero = torch.zeros((), dtype=torch.float64)
    result = [[[zero] * V for _ in range(U)] for _ in range(B)]
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
            chosen = {i: largest(kernel[i], range(U), k) for i in elements}
            for i in elements:
                whole = total[i] if router.config.share == "all" else torch.stack(kernel[i])[chosen[i]].sum()
                for u in chosen[i]:
                    result[b][u][i] = kernel[i][u] / whole
            for u in range(U):
                used = sum(u in chosen[i] for i in elements) / k / count
                balance = balance + U * used * torch.stack([zero, *share[u].values()]).sum() / count
        elif isinstance(router, ExpertChoice):
            for u in range(U):
                for i in largest(share[u], elements, max(math.ceil(router.capacity * len(elements) / U), 1)):
                    result[b][u][i] = share[u][i]
    losses = {"balance": balance / B} if isinstance(router, TopK) else {}
    result_BUV = torch.stack([torch.stack([torch.stack(row) for row in rows]) for rows in result])
    return Output(result_BUV, losses | {"router_z": squares / B})


@ROUTERS
@MASKED
def test_against_plain_loops(router: AffinityRouter, masked: bool) -> None:
    """Compatibilities, losses and all gradients are equal up to rounding; the script closes masked elements."""
    present_BV = some_present() if masked else None
    type_BVT, signature_UT = types_and_signatures()
    leaves = [type_BVT, signature_UT, router.log_bandwidth]
    outcomes = []
    for output in (
        router(type_BVT, signature_UT, make_context(present_BV)),
        reference(router, type_BVT, signature_UT, present_BV),
    ):
        result_BUV = output.value if present_BV is None else output.value * present_BV.unsqueeze(1)
        parts = {"result": weighted_sum(result_BUV), **output.aux_losses}
        gradients = [torch.autograd.grad(part, leaves, retain_graph=True) for part in parts.values()]
        outcomes.append(
            [result_BUV, *parts.values(), *(gradient for part_gradients in gradients for gradient in part_gradients)]
        )
    torch.testing.assert_close(*outcomes, rtol=1e-9, atol=1e-11)


@ROUTERS
def test_order_of_functions_and_elements_does_not_matter(router: AffinityRouter) -> None:
    """This includes elements and functions that are equal up to rounding, which have equal compatibilities."""
    type_BVT, signature_UT = (vectors.detach().clone() for vectors in types_and_signatures())
    type_BVT[:, 3] = type_BVT[:, 5] * (1 + 1e-9)
    signature_UT[1] = signature_UT[2] * (1 - 1e-9)
    functions, elements = torch.tensor([3, 0, 4, 2, 1]), torch.tensor([6, 2, 0, 1, 3, 4, 5])
    actual = compatibility(router, type_BVT, signature_UT, make_context())
    permuted = compatibility(router, type_BVT[:, elements], signature_UT[functions], make_context())
    torch.testing.assert_close(permuted, actual[:, functions][:, :, elements])
    torch.testing.assert_close(actual[:, :, 3], actual[:, :, 5])
    torch.testing.assert_close(actual[:, 1], actual[:, 2])


@ROUTERS
@MASKED
def test_samples_are_independent(router: AffinityRouter, masked: bool) -> None:
    """The losses of a batch are the means of the losses of its samples, so they do not depend on micro-batches."""
    type_BVT, signature_UT = types_and_signatures()
    present_BV = some_present() if masked else None
    whole = router(type_BVT, signature_UT, make_context(present_BV))
    alone = [
        router(type_BVT[[b]], signature_UT, make_context(None if present_BV is None else present_BV[[b]], batch=1))
        for b in range(B)
    ]
    torch.testing.assert_close(whole.value, torch.cat([output.value for output in alone]))
    for name, loss in whole.aux_losses.items():
        torch.testing.assert_close(loss, torch.stack([output.aux_losses[name] for output in alone]).mean())


@ROUTERS
def test_masked_elements_do_not_compete_or_count(router: AffinityRouter) -> None:
    """A sample with masked elements is routed like one without them, also if the masked elements would be chosen first."""
    type_BVT, signature_UT = types_and_signatures()
    present_V = some_present()[0]
    preferred_BVT = torch.where(present_V.unsqueeze(-1), type_BVT, signature_UT[0])[:1]
    actual = router(preferred_BVT, signature_UT, make_context(present_V.unsqueeze(0), batch=1))
    short = router(type_BVT[:1, present_V], signature_UT, make_context(batch=1))
    torch.testing.assert_close(actual.value[..., present_V], short.value)
    torch.testing.assert_close(actual.aux_losses, short.aux_losses)


def test_k_functions_take_an_element() -> None:
    """All others are exactly 0. The sum is 1 with `share: chosen`, and less with `share: all`."""
    actual = compatibility(top_k(2), *types_and_signatures(), make_context())
    assert torch.equal((actual > 0).sum(dim=1), torch.full((B, V), 2))
    torch.testing.assert_close(actual.sum(dim=1), torch.ones(B, V, dtype=torch.float64))
    assert float(compatibility(top_k(2, "all"), *types_and_signatures(), make_context()).sum(dim=1).max()) < 1


@pytest.mark.parametrize(("capacity", "taken"), [(0.1, 1), (1.0, 2), (2.0, 3), (float(U), V)])
def test_functions_take_the_same_number_of_elements(capacity: float, taken: int) -> None:
    """It is ceil(capacity * V / U), at least one. The sum of an element is at most 1, and may be 0."""
    actual = compatibility(expert_choice(capacity), *types_and_signatures(), make_context())
    assert torch.equal((actual > 0).sum(dim=2), torch.full((B, U), taken))
    assert float(actual.sum(dim=1).max()) <= 1 + 1e-12
    assert bool((actual == 0).all(dim=1).any()) == (capacity <= 1)


def test_values_of_the_balance_loss() -> None:
    """It is 1 for even use, U if one function takes all, and is missing in evaluation."""
    signature_UT = torch.eye(U, T, dtype=torch.float64)
    sharp = top_k(1, "all", bandwidth=0.01)
    even, one = signature_UT.expand(B, U, T), signature_UT[:1].expand(B, V, T)
    assert sharp(even, signature_UT, make_context()).aux_losses["balance"].item() == pytest.approx(1)
    assert sharp(one, signature_UT, make_context()).aux_losses["balance"].item() == pytest.approx(U)
    assert top_k().eval()(even, signature_UT, make_context()).aux_losses == {}
    assert expert_choice().eval()(even, signature_UT, make_context()).aux_losses == {}


def test_initial_bandwidth() -> None:
    for router in (top_k(bandwidth=0.7), expert_choice(bandwidth=0.7)):
        assert router.log_bandwidth.item() == pytest.approx(math.log(0.7))


def test_top_1_of_a_single_function() -> None:
    router = TopK(TopK.Config(k=1), evolve(SIZES, functions=1), no_build).double()
    type_BVT, signature_UT = types_and_signatures()
    assert bool((compatibility(router, type_BVT, signature_UT[:1], make_context()) == 1).all())


IN_RECIPES = pytest.mark.parametrize(
    "router", ["top_k", "{use: top_k, k: 1, share: all}", "expert_choice", "{use: expert_choice, capacity: 0.5}"]
)


def run_model(recipe: Recipe, execution: str) -> dict[str, Tensor]:
    """Returns the output of a script in float64 with masks, and the gradients of its input and parameters."""
    script = next(iter(build_model(recipe).double().scripts))
    script.set_execution(execution)
    generator = torch.Generator().manual_seed(1)
    x_BVD = torch.randn(B, V, recipe.model.width, generator=generator, dtype=torch.float64).requires_grad_()
    output = script(x_BVD, some_present(), key_B=torch.arange(B))
    torch.stack([weighted_sum(output.output_BVD), *output.losses.values()]).sum().backward()
    named = {"input": x_BVD, **dict(script.named_parameters())}
    gradients = {name: tensor.grad for name, tensor in named.items() if tensor.grad is not None}
    return {"output": output.output_BVD} | gradients


@IN_RECIPES
def test_layouts_agree(tmp_path: Path, router: str) -> None:
    """Outputs and gradients are equal in both layouts, and the router receives gradients."""
    recipe = small_recipe(tmp_path, router)
    dense = run_model(recipe, "dense")
    torch.testing.assert_close(run_model(recipe, "packed"), dense, rtol=1e-9, atol=1e-9)
    for name in ("router.log_bandwidth", "embedding.signature", "type_inference.layers.1.weight"):
        assert dense[name].any(), name


@IN_RECIPES
@pytest.mark.parametrize("execution", ["dense", "packed", "auto"])
def test_trains(tmp_path: Path, router: str, execution: str) -> None:
    summary = train(small_recipe(tmp_path, router, f"model.execution={execution}"), tmp_path / "run")
    assert math.isfinite(summary["metrics"]["test/loss"])


INVALID_OPTIONS = [
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
            "model.router.share: with k 1, the compatibility of the chosen function is always 1",
            "use `share: all`, as Switch",
        ],
    ),
    (
        "{use: expert_choice, capacity: 5.5}",
        [
            "model.router.capacity: 5 functions cannot take each element 5.5 times",
            "choose at most 5, at which",
        ],
    ),
]


@pytest.mark.parametrize(("router", "words"), INVALID_OPTIONS)
def test_invalid_options(tmp_path: Path, router: str, words: list[str]) -> None:
    """The error names the option, the cause and a fix."""
    with pytest.raises(RecipeError) as caught:
        build_model(small_recipe(tmp_path, router))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_recipes_train(tmp_path: Path, path: Path) -> None:
    assert math.isfinite(train(load_recipe(path, ["train.steps=3"]), tmp_path / "run")["metrics"]["test/loss"])
