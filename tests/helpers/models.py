"""Small models for tests, whose sizes all differ, from recipes as users write them."""

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
from ni_framework.registry.resolve import resolve_config

# Numbers of classes.
TASKS = {"shape": 13, "colour": 14}
# 3 x 2 patches.
IMAGE_SHAPE = (2, 9, 6)
BATCH_SIZE = 2

# B 2, U 4, V 7 or 8, D 15, C 9, T 6, H 3, K 10, I 5
BASE_RECIPE = """
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


class EmptyData:
    """The shape and tasks of a data set, without samples."""

    def __init__(self, shape: tuple[int, ...], tasks: Mapping[str, int]) -> None:
        self.shape, self.tasks = shape, tasks


def load_base_recipe(*overrides: str, text: str = BASE_RECIPE) -> Recipe:
    """Loads the base recipe with overrides such as `model.pooling=sum`."""
    return recipes.loads(text, overrides, resolve=resolve_config)


def build_with_tasks(recipe: Recipe, tasks: Mapping[str, int] = TASKS) -> Interpreter:
    """Builds the model of a recipe with these tasks, as `build_model` does."""
    channels, rows, columns = recipe.model.input.options.image
    with mock.patch.object(compose, "build_data", return_value=EmptyData((channels, rows, columns), tasks)):
        return compose.build_model(recipe)


def build_base_model(*overrides: str, tasks: Mapping[str, int] = TASKS) -> Interpreter:
    """Builds the perturbed model of the base recipe, in float64."""
    return perturb(build_with_tasks(load_base_recipe(*overrides), tasks))


def perturb(model: Interpreter) -> Interpreter:
    """Converts a model to float64 and adds random numbers to values that start at 0, at 1 or small, in place.

    These are vectors, scalars and tables of positions; unchanged, they would hide errors.
    """
    generator = torch.Generator().manual_seed(1)
    model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "positions" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def random_inputs(recipe: Recipe | None = None, batch: int = BATCH_SIZE, seed: int = 2) -> Tensor:
    """A batch of random inputs."""
    shape = IMAGE_SHAPE if recipe is None else recipe.model.input.options.image
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weighted_sum(logits: Mapping[str, Tensor]) -> Tensor:
    """Returns a scalar to which every logit contributes with a different weight."""
    return torch.stack(
        [
            (value * torch.arange(1, value.numel() + 1, dtype=value.dtype).sin().view_as(value)).sum()
            for value in logits.values()
        ]
    ).sum()


def gradients_by_name(model: Interpreter, total: Tensor) -> dict[str, Tensor]:
    """Returns the gradients of a scalar by parameter; zeros for parameters that it does not depend on."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


def assert_equal_gradients(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-9
) -> None:
    """Asserts that gradients agree within a fraction of the largest gradient."""
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert 0 < largest < float("inf")
    for name in expected:
        difference = float((found[name] - expected[name]).abs().max())
        assert difference <= tolerance * largest, f"{name}: {difference / largest:.1e} of the largest gradient"


# B 2, U 4, V 7 or 8, D 8, C 3, T 5, H 2, K 9, I 3
TINY_RECIPE = """
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


def build_tiny_model(*overrides: str, tasks: Mapping[str, int] = TASKS) -> Interpreter:
    """Builds the perturbed model of the tiny recipe, in float64."""
    return perturb(build_with_tasks(load_base_recipe(*overrides, text=TINY_RECIPE), tasks))


def tiny_inputs(batch: int = BATCH_SIZE, seed: int = 2) -> Tensor:
    return torch.randn(batch, 1, 6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def first_script(model: Interpreter) -> Script:
    """The first script of a model."""
    return next(iter(model.scripts))


class FixedRouter(nn.Module):
    """A router with fixed open pairs [B, U, V]; their compatibilities are random and sum to one."""

    def __init__(self, opened_BUV: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.straight_through = False
        weight = torch.rand(opened_BUV.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
        self.weight_BUV = nn.Parameter(weight)
        self.opened_BUV = opened_BUV

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        weight_BUV = torch.where(self.opened_BUV, self.weight_BUV, 0)
        return weight_BUV / (1e-6 + weight_BUV.sum(dim=1, keepdim=True))
