"""Both bodies: comparison with loops in both layouts, closed pairs, order of functions, grids and training."""

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
from ni_framework.options import ComponentSpec
from ni_framework.recipe import Recipe
from ni_framework.testing import conformance
from ni_framework.training.train import train

B, U, D, C = 3, 4, 6, 5
GRID = 2, 3
# A CLS element and a register.
LEAD = 2
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


def make_recipe(folder: Path, body: str, *overrides: str) -> Recipe:
    path = folder / "small.yaml"
    path.write_text(RECIPE)
    return load_recipe(path, [f"model.body={body}", *overrides])


def build_body(folder: Path, name: str) -> Any:
    """Returns a body in float64, on a grid of 2 x 3 after two other elements; noise is added to all parameters."""
    body: Any = next(iter(build_model(make_recipe(folder, BODIES[name])).scripts)).body.double()
    if isinstance(body, Convolution):
        body.grid = GRID
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return body


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_compatibility() -> Tensor:
    """Returns [B, U, V] with closed pairs, a function that takes no element of a sample, and one that takes a single one."""
    generator = torch.Generator().manual_seed(5)
    weight_BUV = torch.rand(B, U, V, generator=generator, dtype=torch.float64)
    weight_BUV[weight_BUV < 0.4] = 0
    weight_BUV[0, 1] = 0
    weight_BUV[1, 2] = 0
    weight_BUV[1, 2, 5] = 0.7
    return weight_BUV / (1e-6 + weight_BUV.sum(dim=1, keepdim=True))


def run_combined(body: Body, inputs: dict[str, Tensor], layout: Any, multiplicity_V: Tensor | None = None) -> Tensor:
    """Returns sum_u c_ui y_ui, [B, V, D]."""
    pairs = layout(inputs["compatibility"], multiplicity_V)
    return pairs.combine(body(inputs["x"], body.prepare(inputs["code"], V), pairs))


def layer_norm(x: Tensor, norm: Any = None) -> Tensor:
    z = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    return z if norm is None else z * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def reference_attention(body: Any, z: dict[int, Tensor], c: Tensor, u: int, i: int) -> Tensor:
    """Returns the output of attention for element i of function u among the elements `z`, after the output map."""
    heads = []
    query, key, value = (
        {j: (map_.weight[u] @ z[j] + (map_.bias[u] if map_ is body.value else 0)).view(body.heads, -1) for j in z}
        for map_ in (body.query, body.key, body.value)
    )
    for h in range(body.heads):
        weight = {j: c[j] * (query[i][h] @ key[j][h] / math.sqrt(key[j].shape[1])).exp() for j in z}
        total = torch.stack(list(weight.values())).sum()
        heads.append(torch.stack([weight[j] / total * value[j][h] for j in z]).sum(dim=0))
    return body.out.weight[u] @ torch.cat(heads) + body.out.bias[u]


def reference_convolution(body: Any, z: dict[int, Tensor], c: Tensor, code: Tensor, i: int) -> Tensor:
    """Returns the convolution at element i over the elements `z`, plus their weighted mean, after the output map."""
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
    """Computes the combined rows sample by sample, function by function, element by element, for open pairs only."""
    x_BVD, code_UC, c_BUV = inputs["x"], inputs["code"], inputs["compatibility"]
    private = type(body).__name__ == "Experts"
    combined_BVD = [[torch.zeros(D, dtype=torch.float64) for _ in range(V)] for _ in range(B)]
    for b, u in [(b, u) for b in range(B) for u in range(U)]:
        c = c_BUV[b, u]
        z = {j: layer_norm(x_BVD[b, j], None if private else body.kernel_norm) for j in range(V) if c[j] > 0}
        for i in z:
            if private:
                a = x_BVD[b, i] + c[i] * reference_attention(body, z, c, u, i)
                hidden = gelu(body.mlp_in.weight[u] @ layer_norm(a) + body.mlp_in.bias[u])
                hidden = hidden * (1 + body.gain.weight @ code_UC[u])
                f = body.mlp_out.weight[u] @ hidden + body.mlp_out.bias[u]
            else:
                a = x_BVD[b, i] + c[i] * reference_convolution(body, z, c, code_UC[u], i)
                hidden = gelu(body.maps["mlp_in"].weight @ layer_norm(a, body.mlp_norm) + body.maps["mlp_in"].bias)
                f = body.maps["mlp_out"].weight @ hidden + body.maps["mlp_out"].bias
            combined_BVD[b][i] = combined_BVD[b][i] + c[i] * (a + c[i] * f)
    return torch.stack([torch.stack(rows) for rows in combined_BVD])


def make_inputs() -> dict[str, Tensor]:
    inputs = {"x": randn(B, V, D), "code": randn(U, C, seed=1), "compatibility": some_compatibility()}
    return {name: value.requires_grad_() for name, value in inputs.items()}


def gradients(body: Body, inputs: dict[str, Tensor], output: Tensor) -> dict[str, Tensor]:
    """Returns the gradients of a weighted sum of the output; those of compatibilities for open pairs only."""
    total = (output * torch.arange(1, output.numel() + 1, dtype=output.dtype).sin().view_as(output)).sum()
    leaves = {**inputs, **dict(body.named_parameters())}
    actual = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    actual["compatibility"] = actual["compatibility"] * (inputs["compatibility"] > 0)
    return actual


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_against_plain_loops(tmp_path: Path, name: str, layout: Any) -> None:
    """Outputs and all gradients are equal up to rounding; no gradient is 0."""
    body, inputs = build_body(tmp_path, name), make_inputs()
    expected, actual = reference(body, inputs), run_combined(body, inputs, layout)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    expected_gradients = gradients(body, inputs, expected)
    torch.testing.assert_close(gradients(body, inputs, actual), expected_gradients, rtol=1e-9, atol=1e-9)
    assert all(gradient.any() for gradient in expected_gradients.values())


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_without_open_pairs(tmp_path: Path, name: str, layout: Any) -> None:
    """The output is 0, and gradients are 0, not missing."""
    body, inputs = build_body(tmp_path, name), make_inputs()
    inputs["compatibility"] = torch.zeros(B, U, V, dtype=torch.float64, requires_grad=True)
    actual = run_combined(body, inputs, layout)
    assert not actual.any()
    assert not any(gradient.any() for gradient in gradients(body, inputs, actual).values())


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_closed_pairs_have_no_influence(tmp_path: Path, name: str, layout: Any) -> None:
    """An element that no function takes does not change the output for others."""
    body, inputs = build_body(tmp_path, name), {name: value.detach() for name, value in make_inputs().items()}
    inputs["compatibility"][:, :, [0, 4]] = 0
    before = run_combined(body, inputs, layout)
    inputs["x"][:, [0, 4]] += 100
    assert torch.equal(run_combined(body, inputs, layout), before)


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_multiplicity_of_elements(tmp_path: Path, name: str, layout: Any) -> None:
    """A shared CLS element with multiplicity 3 gives the same result as three equal CLS elements."""
    body, inputs = build_body(tmp_path, name), {name: value.detach() for name, value in make_inputs().items()}
    places = [0, 0, 0, *range(1, V)]
    copies = {
        "x": inputs["x"][:, places],
        "code": inputs["code"],
        "compatibility": inputs["compatibility"][..., places],
    }
    multiplicity_V = torch.ones(V, dtype=torch.float64)
    multiplicity_V[0] = 3
    actual = run_combined(body, inputs, layout, multiplicity_V)
    torch.testing.assert_close(run_combined(body, copies, layout)[:, 2:], actual, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["convolution", "wide"])
def test_convolution_depends_on_relative_compatibilities_only(tmp_path: Path, name: str) -> None:
    """A common factor of all compatibilities does not change the weighted means."""
    body, inputs = build_body(tmp_path, name), make_inputs()
    nn.init.zeros_(body.maps["mlp_out"].weight)
    nn.init.zeros_(body.maps["mlp_out"].bias)
    seen = []
    for factor in (1, 0.1):
        pairs = DensePairs(factor * inputs["compatibility"])
        rows = body(inputs["x"], body.prepare(inputs["code"], V), pairs)
        opened = pairs.compatibility.squeeze(-1) > 0
        seen.append(((rows - inputs["x"]) / torch.where(pairs.compatibility > 0, pairs.compatibility, 1))[opened])
    torch.testing.assert_close(*seen, rtol=1e-9, atol=1e-10)


def test_codes_distinguish_experts_with_equal_weights(tmp_path: Path) -> None:
    """With equal weights and equal codes the functions are the same."""
    body, inputs = build_body(tmp_path, "experts"), make_inputs()
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
    body, inputs = build_body(tmp_path, name), {name: value.detach() for name, value in make_inputs().items()}
    before, order = run_combined(body, inputs, DensePairs), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for parameter_name, parameter in body.named_parameters():
            if isinstance(body, Experts) and parameter_name != "gain.weight":
                parameter.copy_(parameter[order])
    permuted = inputs | {"code": inputs["code"][order], "compatibility": inputs["compatibility"][:, order]}
    torch.testing.assert_close(run_combined(body, permuted, DensePairs), before, rtol=1e-9, atol=1e-10)


@EACH
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_bf16(tmp_path: Path, name: str, layout: Any) -> None:
    """Results under autocast are equal up to the rounding of bf16."""
    body, inputs = build_body(tmp_path, name), make_inputs()
    expected = run_combined(body, inputs, layout)
    body.float()
    with torch.autocast("cpu", torch.bfloat16):
        actual = run_combined(body, {name: value.float() for name, value in inputs.items()}, layout)
    torch.testing.assert_close(actual.double(), expected, rtol=0.1, atol=0.1)


@EACH
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_trains(tmp_path: Path, name: str, execution: str) -> None:
    """Training runs with registers."""
    overrides = [f"model.execution={execution}", "model.registers=2"]
    summary = train(make_recipe(tmp_path, BODIES[name], *overrides), tmp_path / "run")
    assert math.isfinite(summary["metrics"]["test/loss"])


INVALID_OPTIONS = [
    (
        "{use: experts, heads: 4}",
        ["model.body.heads: 4 heads cannot share a width of 6", "choose a number of heads that divides model.width"],
    ),
    (
        "{use: convolution, kernel: 4}",
        [
            "model.body.kernel",
            "a kernel of 4 has no centre, so it would shift the elements",
            "odd number, such as 3 or 5",
        ],
    ),
]


@pytest.mark.parametrize(("body", "words"), INVALID_OPTIONS)
def test_invalid_options(tmp_path: Path, body: str, words: list[str]) -> None:
    """The error names the option, the cause and a fix."""
    with pytest.raises(RecipeError) as caught:
        build_model(make_recipe(tmp_path, body))
    for word in words:
        assert word in str(caught.value)


def test_convolution_needs_a_grid() -> None:
    sizes = Sizes(width=D, functions=U, code=C, type=3, grid=None)
    spec = ComponentSpec(use="plain", options=None)
    with pytest.raises(OptionError, match="elements have no positions on a grid, so they have no neighbours") as caught:
        Convolution(Convolution.Config(linear=spec), sizes, lambda *_: None)
    assert caught.value.hint == "use another body, such as `lines_of_code`, or the input `patches`"


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_recipes_train(tmp_path: Path, path: Path) -> None:
    assert math.isfinite(train(load_recipe(path, ["train.steps=3"]), tmp_path / "run")["metrics"]["test/loss"])
