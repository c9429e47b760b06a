"""A small model that contains the component under test, with a router whose open functions depend on the sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from ni_framework.contracts import Batch, ComponentSpec, Context, Head, Input, Router, Sizes
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.noise import KeyedNoise
from ni_framework.model.script import Script
from ni_framework.nn.init import SkipInit, initialise_model
from ni_framework.nn.random import rng_keys
from ni_framework.recipe import Recipe
from ni_framework.registry import load_recipe_text
from ni_framework.testing.harness.case import CASE_TASKS, Case, build_inner_component

SMALL_MODEL_RECIPE = """\
ni: 1
model:
  width: {width}
  functions: {functions}
  code: {code}
  type: {type}
  iterations: 2
  input: {{use: entities, entities: 1, features: 1}}
  body: {{use: lines_of_code, heads: 1, key: 3}}
  execution: packed
data: digits
train:
  steps: 1
  batch: {batch}
  micro_batches: {parts}
  optimizer: {{lr: 0.1}}
  schedule: {{use: constant, warmup: 0}}
"""
UNDER_TEST_NAME, KEYED_ROUTER_NAME = "the component under test", "the router that is controlled by sample keys"
# Which functions are open to a sample.
OPEN_GROUPS = ALL, EVEN, ODD, NONE = range(4)
# The size of an element of `FeatureInput`.
ELEMENT_FEATURES = 4


class KeyedRouter(Router):
    """A softmax over the functions that are open to a sample: the group is the sample's key modulo 4 (`OPEN_GROUPS`)."""

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        group_B = cast(KeyedNoise, context.noise).key_B % len(OPEN_GROUPS)
        even_U = torch.arange(len(signature_UT)) % 2 == 0
        open_GU = torch.stack([torch.ones_like(even_U), even_U, ~even_U, torch.zeros_like(even_U)])
        weight_BUV = torch.einsum("ut,bvt->buv", signature_UT, type_BVT).exp() * open_GU[group_B].unsqueeze(-1)
        return weight_BUV / (weight_BUV.sum(dim=1, keepdim=True) + 1e-6)


class FeatureInput(Input):
    """A linear map of a few numbers for each element, on the grid of the sizes."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        rows, columns = sizes.grid or (3, 2)
        self.shape, self.num_elements, self.grid = (rows * columns, ELEMENT_FEATURES), rows * columns, sizes.grid
        self.linear = nn.Linear(ELEMENT_FEATURES, sizes.width)

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        return self.linear(inputs)


def small_model_recipe(case: Case, batch: int, micro_batches: int, *overrides: str) -> Recipe:
    """Returns the recipe of the small model: the components around the one under test, and how it is trained."""
    sizes = case.sizes
    values = {"width": sizes.width, "functions": sizes.functions, "code": sizes.code, "type": sizes.type}
    return load_recipe_text(SMALL_MODEL_RECIPE.format(**values, batch=batch, parts=micro_batches), overrides)


def build_small_model(
    case: Case, recipe: Recipe, on_module_initialized: Callable[[nn.Module], object] | None = None
) -> Interpreter:
    """Builds the model with the component under test, and initializes it; `on_module_initialized` as in `build_model`."""
    with torch.device("meta"), SkipInit():
        model = _compose_small_model(case, recipe)
    initialise_model(model, recipe.seed, on_module_initialized)
    return model


def make_random_batch(model: Interpreter, groups: Sequence[int], seed: int) -> Batch:
    """Makes a batch of random samples, one for each group of open functions."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(groups), *model.input.shape, generator=generator)
    targets = {
        task: torch.randint(classes, (len(groups),), generator=generator) for task, classes in CASE_TASKS.items()
    }
    key_B = rng_keys(seed, torch.arange(len(groups)))
    return Batch(inputs, targets, key=key_B - key_B % len(OPEN_GROUPS) + torch.tensor(groups))


def _compose_small_model(case: Case, recipe: Recipe) -> Interpreter:
    under_test, script = ComponentSpec(UNDER_TEST_NAME, case.config), recipe.model.program[0]
    script = attrs.evolve(script, router=ComponentSpec(KEYED_ROUTER_NAME, None))
    if case.kind == "linear":
        script = attrs.evolve(script, body=_with_options(script.body, linear=under_test))
    elif case.kind not in ("input", "head"):
        script = attrs.evolve(script, **{case.kind: under_test})
    if case.kind == "router" and case.instantiate().straight_through:
        script = attrs.evolve(script, execution="dense")

    def build_component(kind: str, spec: ComponentSpec, /, *sizes: Any) -> Any:
        if spec is under_test:
            return case.cls(case.config, *sizes)
        return KeyedRouter() if spec.use == KEYED_ROUTER_NAME else build_inner_component(kind, spec, *sizes)

    width = recipe.model.width
    input_module: Input = case.instantiate() if case.kind == "input" else FeatureInput(case.sizes)
    head_module: Head = (
        case.instantiate()
        if case.kind == "head"
        else build_inner_component("head", recipe.model.head, width, CASE_TASKS)
    )
    return Interpreter(
        input_module, [Script(0, script, width, input_module.grid, build_component)], head_module, CASE_TASKS
    )


def _with_options(spec: ComponentSpec, **options: Any) -> ComponentSpec:
    return attrs.evolve(spec, options=attrs.evolve(spec.options, **options))
