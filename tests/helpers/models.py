"""Small models to test on, with sizes that all differ, from recipes as users write them."""

from __future__ import annotations

from collections.abc import Mapping
from unittest import mock

import torch
from torch import Tensor, nn

from ni_framework import recipe as recipes
from ni_framework.contracts import Context
from ni_framework.model import compose
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.script import Script
from ni_framework.recipe import Recipe
from ni_framework.registry.resolve import config_of

TASKS = {"shape": 13, "colour": 14}  # classes
SHAPE = (2, 9, 6)  # 3 x 2 patches
BATCH = 2

# B 2, U 4, V 7 or 8, D 15, C 9, T 6, H 3, K 10, I 5
BASE = """
ni: 1
model:
  width: 15
  input: {use: patches, image: [2, 9, 6], patch: 3}
  iterations: 5
  functions: 4
  code: 9
  type: 6
  router: {use: kernel, truncation: 1.0, bandwidth: 0.7}
  body: {use: lines_of_code, heads: 3, key: 10, hidden: 11}
data: {use: digits}
train: {steps: 2, batch: 2}
"""


class Blank:
    """The shape and tasks of a data set without data."""

    def __init__(self, shape: tuple[int, ...], tasks: Mapping[str, int]) -> None:
        self.shape, self.tasks = shape, tasks


def recipe_of(*overrides: str, text: str = BASE) -> Recipe:
    """The base recipe under overrides such as `model.pooling=sum`."""
    return recipes.loads(text, overrides, resolve=config_of)


def build(recipe: Recipe, tasks: Mapping[str, int] = TASKS) -> Interpreter:
    """The model of a recipe with these tasks, as `build_model` returns it."""
    channels, rows, columns = recipe.model.input.options.image
    with mock.patch.object(compose, "build_data", return_value=Blank((channels, rows, columns), tasks)):
        return compose.build_model(recipe)


def model_of(*overrides: str, tasks: Mapping[str, int] = TASKS) -> Interpreter:
    """The model of the base recipe in float64; whatever starts at 0 or 1 or small is moved away, so that it counts."""
    return perturbed(build(recipe_of(*overrides), tasks))


def perturbed(model: Interpreter) -> Interpreter:
    """The model in float64 with vectors, scalars and tables of positions moved by random numbers, in place."""
    generator = torch.Generator().manual_seed(1)
    model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "positions" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def inputs_of(recipe: Recipe | None = None, batch: int = BATCH, seed: int = 2) -> Tensor:
    """A batch of random inputs."""
    shape = SHAPE if recipe is None else recipe.model.input.options.image
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weighted_sum(logits: Mapping[str, Tensor]) -> Tensor:
    """A scalar in which every logit counts differently."""
    return torch.stack(
        [
            (value * torch.arange(1, value.numel() + 1, dtype=value.dtype).sin().view_as(value)).sum()
            for value in logits.values()
        ]
    ).sum()


def gradients(model: Interpreter, total: Tensor) -> dict[str, Tensor]:
    """Gradients of a scalar by parameter; zeros where a parameter plays no part."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


def assert_equal_gradients(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-9
) -> None:
    """Gradients agree within a part of the largest there is."""
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert 0 < largest < float("inf")
    for name in expected:
        difference = float((found[name] - expected[name]).abs().max())
        assert difference <= tolerance * largest, f"{name}: {difference / largest:.1e} of the largest gradient"


# B 2, U 4, V 7 or 8, D 8, C 3, T 5, H 2, K 9, I 3
TINY = """
ni: 1
model:
  width: 8
  input: {use: patches, image: [1, 6, 4], patch: 2}
  iterations: 3
  functions: 4
  code: 3
  type: 5
  router: {use: kernel, truncation: 1.0, bandwidth: 0.7}
  body: {use: lines_of_code, heads: 2, key: 9, hidden: 11}
data: {use: digits}
train: {steps: 2, batch: 2}
"""


def tiny_of(*overrides: str, tasks: Mapping[str, int] = TASKS) -> Interpreter:
    """The model of the tiny recipe, in float64 and perturbed."""
    return perturbed(build(recipe_of(*overrides, text=TINY), tasks))


def tiny_inputs(batch: int = BATCH, seed: int = 2) -> Tensor:
    return torch.randn(batch, 1, 6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def script_of(model: Interpreter) -> Script:
    """The first script of a model."""
    return next(iter(model.scripts))


class FixedRouter(nn.Module):
    """A router whose compatibilities are given: [B, U, V] over the functions that are open, 0 elsewhere."""

    def __init__(self, opened_BUV: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.gradient_through_closed = False
        weight = torch.rand(opened_BUV.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
        self.weight_BUV = nn.Parameter(weight)
        self.opened_BUV = opened_BUV

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        weight_BUV = torch.where(self.opened_BUV, self.weight_BUV, 0)
        return weight_BUV / (1e-6 + weight_BUV.sum(dim=1, keepdim=True))
