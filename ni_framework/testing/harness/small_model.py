"""A small model around a component under test, with a routing that each sample decides for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from ni_framework.contracts import Batch, Choice, Context, Head, Input, Router, Sizes
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.noise import KeyedNoise
from ni_framework.model.script import Script
from ni_framework.nn.init import WithoutValues, initialise
from ni_framework.nn.random import keys
from ni_framework.recipe import Recipe
from ni_framework.registry import recipe_in
from ni_framework.testing.harness.case import TASKS, Case, build

RECIPE = """\
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
  accumulate: {parts}
  optimizer: {{lr: 0.1}}
  schedule: {{use: constant, warmup: 0}}
"""
UNDER_TEST, TOLD = "the component under test", "the router that samples tell what to do"
GROUPS = ALL, EVEN, ODD, NONE = range(4)  # which functions are open to a sample
FEATURES = 4  # of an element of the kit's own input


class Obedient(Router):
    """A softmax over those functions that a sample's key leaves open: the key's remainder by 4 says which (`GROUPS`)."""

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        group_B = cast(KeyedNoise, context.noise).key_B % len(GROUPS)
        even_U = torch.arange(len(signature_UT)) % 2 == 0
        open_GU = torch.stack([torch.ones_like(even_U), even_U, ~even_U, torch.zeros_like(even_U)])
        weight_BUV = torch.einsum("ut,bvt->buv", signature_UT, type_BVT).exp() * open_GU[group_B].unsqueeze(-1)
        return weight_BUV / (weight_BUV.sum(dim=1, keepdim=True) + 1e-6)


class Features(Input):
    """A linear map of a few numbers for each element, on whatever grid there is."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        rows, columns = sizes.grid or (3, 2)
        self.shape, self.num_elements, self.grid = (rows * columns, FEATURES), rows * columns, sizes.grid
        self.linear = nn.Linear(FEATURES, sizes.width)

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        return self.linear(inputs)


def recipe_of(case: Case, batch: int, parts: int, *overrides: str) -> Recipe:
    """How the model is trained, and what stands around the component."""
    sizes = case.sizes
    known = {"width": sizes.width, "functions": sizes.functions, "code": sizes.code, "type": sizes.type}
    return recipe_in(RECIPE.format(**known, batch=batch, parts=parts), overrides)


def whole(case: Case, recipe: Recipe, settle: Callable[[nn.Module], object] | None = None) -> Interpreter:
    """The model with the component in its place, and its initial values; `settle` as in `build_model`."""
    with torch.device("meta"), WithoutValues():
        model = _composed(case, recipe)
    initialise(model, recipe.seed, settle)
    return model


def samples(model: Interpreter, groups: Sequence[int], seed: int) -> Batch:
    """A batch of random samples, one for each group."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(groups), *model.input.shape, generator=generator)
    targets = {task: torch.randint(classes, (len(groups),), generator=generator) for task, classes in TASKS.items()}
    key_B = keys(seed, torch.arange(len(groups)))
    return Batch(inputs, targets, key=key_B - key_B % len(GROUPS) + torch.tensor(groups))


def _composed(case: Case, recipe: Recipe) -> Interpreter:
    own, script = Choice(UNDER_TEST, case.config), recipe.model.program[0]
    script = attrs.evolve(script, router=Choice(TOLD, None))
    if case.kind == "linear":
        script = attrs.evolve(script, body=_with(script.body, linear=own))
    elif case.kind not in ("input", "head"):
        script = attrs.evolve(script, **{case.kind: own})
    if case.kind == "router" and case.made().gradient_through_closed:
        script = attrs.evolve(script, execution="dense")

    def make(kind: str, choice: Choice, /, *sizes: Any) -> Any:
        if choice is own:
            return case.cls(case.config, *sizes)
        return Obedient() if choice.use == TOLD else build(kind, choice, *sizes)

    width = recipe.model.width
    input: Input = case.made() if case.kind == "input" else Features(case.sizes)
    head: Head = case.made() if case.kind == "head" else build("head", recipe.model.head, width, TASKS)
    return Interpreter(input, [Script(0, script, width, input.grid, make)], head, TASKS)


def _with(choice: Choice, **options: Any) -> Choice:
    return attrs.evolve(choice, options=attrs.evolve(choice.options, **options))
