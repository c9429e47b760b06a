"""Both bodies against plain loops in both layouts, and what they promise about closed pairs, functions, grids and learning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ni_expert_bodies.convolution import Convolution
from ni_expert_bodies.experts import Experts
from torch import Tensor, nn

from ni_framework import build_model, load_recipe
from ni_framework.contracts import Body, Sizes
from ni_framework.errors import OptionError, RecipeError
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.options import Choice
from ni_framework.recipe import Recipe
from ni_framework.testing import conformance
from ni_framework.training.train import train

B, U, D, C = 3, 4, 6, 5
GRID = 2, 3
LEAD = 2  # CLS and a temporary element
V = LEAD + 6
RECIPE = """\
ni: 1
requires: ["ni-expert-bodies>=0.1"]
model:
  width: 6
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 2
  functions: 4
  code: 5
  type: 4
  router: {use: kernel, truncation: 1.0}
data: {use: digits}
train: {steps: 3, batch: 8}
"""
BODIES = {
    "experts": "{use: experts, heads: 2, key: 4, hidden: 7}",
    "convolution": "{use: convolution, kernel: 3, hidden: 7, linear: plain}",
    "wide": "{use: convolution, kernel: 5, linear: plain}",
}
EACH = pytest.mark.parametrize("name", BODIES)

test_conformance_of_experts = conformance(Experts, hidden=7)
test_conformance_of_convolution = conformance(Convolution, linear="hyper")


def recipe_of(folder: Path, body: str, *overrides: str) -> Recipe:
    path = folder / "small.yaml"
    path.write_text(RECIPE)
    return load_recipe(path, [f"model.body={body}", *overrides])


def body_of(folder: Path, name: str) -> Any:
    """A body in float64, on a grid of 2 x 3 behind two other elements; what starts at 0 is moved away, so that it counts."""
    body: Any = next(iter(build_model(recipe_of(folder, BODIES[name])).scripts)).body.double()
    if isinstance(body, Convolution):
        body.grid = GRID
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return body


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_compatibility() -> Tensor:
    """[B, U, V] with closed pairs, a function that takes nothing in a sample, and one that takes a single element."""
    generator = torch.Generator().manual_seed(5)
    weight_BUV = torch.rand(B, U, V, generator=generator, dtype=torch.float64)
    weight_BUV[weight_BUV < 0.4] = 0
    weight_BUV[0, 1] = 0
    weight_BUV[1, 2] = 0
    weight_BUV[1, 2, 5] = 0.7
    return weight_BUV / (1e-6 + weight_BUV.sum(dim=1, keepdim=True))


def pooled(body: Body, inputs: dict[str, Tensor], layout: Any, multiplicity_V: Tensor | None = None) -> Tensor:
    """sum_u c_ui y_ui, [B, V, D]."""
    pairs = layout(inputs["compatibility"], multiplicity_V)
    return pairs.pool(body(inputs["x"], body.prepare(inputs["code"], V), pairs))


def normed(x: Tensor, norm: Any = None) -> Tensor:
    z = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    return z if norm is None else z * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attended(body: Any, z: dict[int, Tensor], c: Tensor, u: int, i: int) -> Tensor:
    """What element i of function u sees of the elements `z` that it takes, all heads, mapped to an answer."""
    heads = []
    query, key, value = (
        {j: (of.weight[u] @ z[j] + (of.bias[u] if of is body.value else 0)).view(body.heads, -1) for j in z}
        for of in (body.query, body.key, body.value)
    )
    for h in range(body.heads):
        weight = {j: c[j] * (query[i][h] @ key[j][h] / math.sqrt(key[j].shape[1])).exp() for j in z}
        total = torch.stack(list(weight.values())).sum()
        heads.append(torch.stack([weight[j] / total * value[j][h] for j in z]).sum(dim=0))
    return body.out.weight[u] @ torch.cat(heads) + body.out.bias[u]


def convolved(body: Any, z: dict[int, Tensor], c: Tensor, code: Tensor, i: int) -> Tensor:
    """What element i sees of its neighbours among the elements `z`, and of all of them."""
    size, half = body.kernel_size, body.kernel_size // 2
    kernel = (body.kernel.weight @ code + body.kernel.bias).view(D, size, size)
    mean = torch.stack([c[j] * z[j] for j in z]).sum(dim=0) / torch.stack([c[j] for j in z]).sum()
    seen = (body.mean.weight @ code + body.mean.bias) * mean
    if i >= LEAD:
        row, column = divmod(i - LEAD, GRID[1])
        parts, weights = [], []
        for j in z:
            down, right = (j - LEAD) // GRID[1] - row, (j - LEAD) % GRID[1] - column
            if j >= LEAD and max(abs(down), abs(right)) <= half:
                parts.append(c[j] * kernel[:, down + half, right + half] * z[j])
                weights.append(c[j])
        seen = seen + torch.stack(parts).sum(dim=0) / torch.stack(weights).sum()
    return body.maps["out"].weight @ seen + body.maps["out"].bias


def reference(body: Any, inputs: dict[str, Tensor]) -> Tensor:
    """One sample, one function, one element after the other; what is closed is left out."""
    x_BVD, code_UC, c_BUV = inputs["x"], inputs["code"], inputs["compatibility"]
    private = type(body).__name__ == "Experts"
    pooled_BVD = [[torch.zeros(D, dtype=torch.float64) for _ in range(V)] for _ in range(B)]
    for b, u in [(b, u) for b in range(B) for u in range(U)]:
        c = c_BUV[b, u]
        z = {j: normed(x_BVD[b, j], None if private else body.kernel_norm) for j in range(V) if c[j] > 0}
        for i in z:
            if private:
                a = x_BVD[b, i] + c[i] * attended(body, z, c, u, i)
                hidden = gelu(body.mlp_in.weight[u] @ normed(a) + body.mlp_in.bias[u])
                hidden = hidden * (1 + body.gain.weight @ code_UC[u])
                f = body.mlp_out.weight[u] @ hidden + body.mlp_out.bias[u]
            else:
                a = x_BVD[b, i] + c[i] * convolved(body, z, c, code_UC[u], i)
                hidden = gelu(body.maps["mlp_in"].weight @ normed(a, body.mlp_norm) + body.maps["mlp_in"].bias)
                f = body.maps["mlp_out"].weight @ hidden + body.maps["mlp_out"].bias
            pooled_BVD[b][i] = pooled_BVD[b][i] + c[i] * (a + c[i] * f)
    return torch.stack([torch.stack(rows) for rows in pooled_BVD])


def inputs_of() -> dict[str, Tensor]:
    inputs = {"x": random(B, V, D), "code": random(U, C, seed=1), "compatibility": some_compatibility()}
    return {name: value.requires_grad_() for name, value in inputs.items()}


def gradients(body: Body, inputs: dict[str, Tensor], output: Tensor) -> dict[str, Tensor]:
    """Of a scalar in which every number counts differently; that of compatibilities where pairs are open alone."""
    total = (output * torch.arange(1, output.numel() + 1, dtype=output.dtype).sin().view_as(output)).sum()
    leaves = {**inputs, **dict(body.named_parameters())}
    found = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    found["compatibility"] = found["compatibility"] * (inputs["compatibility"] > 0)
    return found


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_against_plain_loops(tmp_path: Path, name: str, layout: Any) -> None:
    """Outputs and all gradients, to the last digits; every parameter and the codes have one."""
    body, inputs = body_of(tmp_path, name), inputs_of()
    expected, found = reference(body, inputs), pooled(body, inputs, layout)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    expected_gradients = gradients(body, inputs, expected)
    torch.testing.assert_close(gradients(body, inputs, found), expected_gradients, rtol=1e-9, atol=1e-9)
    assert all(gradient.any() for gradient in expected_gradients.values())


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_nothing_open(tmp_path: Path, name: str, layout: Any) -> None:
    """Nothing comes out, and gradients are 0, not absent."""
    body, inputs = body_of(tmp_path, name), inputs_of()
    inputs["compatibility"] = torch.zeros(B, U, V, dtype=torch.float64, requires_grad=True)
    found = pooled(body, inputs, layout)
    assert not found.any()
    assert not any(gradient.any() for gradient in gradients(body, inputs, found).values())


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_closed_pairs_influence_nothing(tmp_path: Path, name: str, layout: Any) -> None:
    """Nor does an element that no function takes any more."""
    body, inputs = body_of(tmp_path, name), {name: value.detach() for name, value in inputs_of().items()}
    inputs["compatibility"][:, :, [0, 4]] = 0
    before = pooled(body, inputs, layout)
    inputs["x"][:, [0, 4]] += 100
    assert torch.equal(pooled(body, inputs, layout), before)


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_an_element_may_stand_for_several(tmp_path: Path, name: str, layout: Any) -> None:
    """CLS elements that tasks share count as often as there are tasks: as so many equal ones."""
    body, inputs = body_of(tmp_path, name), {name: value.detach() for name, value in inputs_of().items()}
    places = [0, 0, 0, *range(1, V)]
    copies = {
        "x": inputs["x"][:, places],
        "code": inputs["code"],
        "compatibility": inputs["compatibility"][..., places],
    }
    multiplicity_V = torch.ones(V, dtype=torch.float64)
    multiplicity_V[0] = 3
    found = pooled(body, inputs, layout, multiplicity_V)
    torch.testing.assert_close(pooled(body, copies, layout)[:, 2:], found, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["convolution", "wide"])
def test_a_convolution_weighs_by_shares(tmp_path: Path, name: str) -> None:
    """What an element sees does not hang on how much the function takes of all in total."""
    body, inputs = body_of(tmp_path, name), inputs_of()
    nn.init.zeros_(body.maps["mlp_out"].weight)
    nn.init.zeros_(body.maps["mlp_out"].bias)
    seen = []
    for factor in (1, 0.1):
        pairs = DensePairs(factor * inputs["compatibility"])
        rows = body(inputs["x"], body.prepare(inputs["code"], V), pairs)
        opened = pairs.compatibility.squeeze(-1) > 0
        seen.append(((rows - inputs["x"]) / torch.where(pairs.compatibility > 0, pairs.compatibility, 1))[opened])
    torch.testing.assert_close(*seen, rtol=1e-9, atol=1e-10)


def test_functions_are_told_apart_by_codes_too(tmp_path: Path) -> None:
    """Experts of equal private weights still differ."""
    body, inputs = body_of(tmp_path, "experts"), inputs_of()
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if name != "gain.weight":
                parameter.copy_(parameter[:1].expand_as(parameter))
    even_BUV = torch.full((B, U, V), 1 / U, dtype=torch.float64)
    rows_UBVD = body(inputs["x"], body.prepare(inputs["code"], V), DensePairs(even_BUV))
    assert not torch.allclose(rows_UBVD[0], rows_UBVD[1])
    same_UC = inputs["code"][:1].expand(U, C)
    rows_UBVD = body(inputs["x"], body.prepare(same_UC, V), DensePairs(even_BUV))
    torch.testing.assert_close(rows_UBVD[0], rows_UBVD[1])


@EACH
def test_order_of_functions_does_not_matter(tmp_path: Path, name: str) -> None:
    body, inputs = body_of(tmp_path, name), {name: value.detach() for name, value in inputs_of().items()}
    before, order = pooled(body, inputs, DensePairs), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for parameter_name, parameter in body.named_parameters():
            if isinstance(body, Experts) and parameter_name != "gain.weight":
                parameter.copy_(parameter[order])
    permuted = inputs | {"code": inputs["code"][order], "compatibility": inputs["compatibility"][:, order]}
    torch.testing.assert_close(pooled(body, permuted, DensePairs), before, rtol=1e-9, atol=1e-10)


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_bf16(tmp_path: Path, name: str, layout: Any) -> None:
    """Autocast gives the numbers up to its rounding."""
    body, inputs = body_of(tmp_path, name), inputs_of()
    expected = pooled(body, inputs, layout)
    body.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = pooled(body, {name: value.float() for name, value in inputs.items()}, layout)
    torch.testing.assert_close(found.double(), expected, rtol=0.1, atol=0.1)


@EACH
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_trains(tmp_path: Path, name: str, execution: str) -> None:
    """With temporary elements in front."""
    overrides = [f"model.execution={execution}", "model.temporary=2"]
    summary = train(recipe_of(tmp_path, BODIES[name], *overrides), tmp_path / "run")
    assert math.isfinite(summary["metrics"]["test/loss"])


CANNOT_WORK = [
    (
        "{use: experts, heads: 4}",
        ["model.body.heads: 4 heads cannot share a width of 6", "choose a number of heads that divides model.width"],
    ),
    (
        "{use: convolution, kernel: 4}",
        ["model.body.kernel", "a kernel of 4 has no middle, so that it would move elements", "odd number, as 3 or 5"],
    ),
]


@pytest.mark.parametrize(("body", "words"), CANNOT_WORK)
def test_options_that_cannot_work(tmp_path: Path, body: str, words: list[str]) -> None:
    """What, where, and what to do."""
    with pytest.raises(RecipeError) as found:
        build_model(recipe_of(tmp_path, body))
    for word in words:
        assert word in str(found.value)


def test_a_convolution_needs_a_grid() -> None:
    sizes = Sizes(width=D, functions=U, code=C, type=3, grid=None)
    choice = Choice(use="plain", options=None)
    with pytest.raises(OptionError, match="elements lie on no grid, so that they have no neighbours") as found:
        Convolution(Convolution.Config(linear=choice), sizes, lambda *_: None)
    assert found.value.hint == "use another body, as `lines_of_code`, or an input of patches"


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_recipes_train(tmp_path: Path, path: Path) -> None:
    assert math.isfinite(train(load_recipe(path, ["train.steps=3"]), tmp_path / "run")["metrics"]["test/loss"])
