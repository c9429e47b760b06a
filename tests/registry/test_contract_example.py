"""The example in the contract is a whole plugin: cut out of the docstring, installed, and trained in both layouts."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework import contracts
from ni_framework import recipe as recipes
from ni_framework.contracts import hookimpl
from ni_framework.errors import RecipeError
from ni_framework.model.compose import build_model
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.recipe import Recipe
from ni_framework.registry.catalog import installed
from ni_framework.registry.describe import describe_component
from ni_framework.registry.resolve import component, config_of
from ni_framework.training.train import train
from tests.helpers.distributions import Install

DOCSTRING = contracts.__doc__ or ""
RECIPE = """
ni: 1
requires: ["ni-swirl>=0.1"]
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 3
  functions: 5
  code: 7
  type: 6
  router: {use: kernel, truncation: 1.0}
  body: {use: swirl, strength: 2.0}
data: {use: digits}
train: {steps: 2, batch: 9, log_every: 1}
"""


def between(start: str, end: str) -> str:
    """The part of the docstring from one text to before another, without its indentation."""
    assert DOCSTRING.count(start) == 1
    first = DOCSTRING.index(start)
    return textwrap.dedent(DOCSTRING[first : DOCSTRING.index(end, first)])


def example() -> str:
    return between("    import torch\n", "Rules that hold for every component")


def entries() -> dict[str, dict[str, str]]:
    """The entry points that the docstring announces, by kind."""
    table = tomllib.loads(between("    [project.entry-points", "A whole example"))["project"]["entry-points"]
    return {group.removeprefix("ni_framework."): named for group, named in table.items()}


@pytest.fixture
def swirl(install: Install) -> None:
    install("ni_swirl", example(), entries())


def recipe_of(*overrides: str) -> Recipe:
    return recipes.loads(RECIPE, overrides, resolve=config_of)


class Losses:
    """Listens to a run."""

    def __init__(self) -> None:
        self.values: list[float] = []

    @hookimpl
    def run_step(self, values: dict[str, torch.Tensor]) -> None:
        self.values.append(float(values["loss"]))


def losses_of(recipe: Recipe, run: Path) -> list[float]:
    listener = Losses()
    train(recipe, run, listeners=[listener])
    return listener.values


@pytest.mark.usefixtures("swirl")
def test_example_is_found_and_described() -> None:
    assert entries() == {"body": {"swirl": "ni_swirl:Swirl"}}
    entry = installed().find("body", "swirl")
    assert (entry.source, entry.value) == ("ni-swirl 0.1", "ni_swirl:Swirl")
    (described,) = describe_component("swirl")
    assert described["doc"] == (
        "Turns halves of the features into each other, and elements towards their mean: [B, V, D] -> [R, D]."
    )
    assert described["options"] == [
        {"name": "strength", "type": "float", "default": "1.0", "help": "largest angle, in radians"}
    ]


@pytest.mark.usefixtures("swirl")
def test_example_trains_alike_in_both_layouts(tmp_path: Path) -> None:
    dense = losses_of(recipe_of("model.execution=dense"), tmp_path / "dense")
    packed = losses_of(recipe_of("model.execution=packed"), tmp_path / "packed")
    other = losses_of(recipe_of("model.body.strength=0.1"), tmp_path / "other")
    assert len(dense) == 2
    assert dense == pytest.approx(packed, abs=1e-5)
    assert abs(dense[0] - other[0]) > 1e-5
    assert dense[0] != dense[1]


@pytest.mark.usefixtures("swirl")
def test_all_of_the_example_learns() -> None:
    """Elements reach the CLS element by their mean, so that every parameter has a gradient."""
    model = build_model(recipe_of())
    model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)))["digits"].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.usefixtures("swirl")
def test_example_turns_and_mixes() -> None:
    """With one element of compatibility 1 the mean is itself, and a rotation keeps the length of each pair of features."""
    body: Any = next(iter(build_model(recipe_of()).scripts)).body
    x_BVD = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(0))
    angle_UX = body.prepare(torch.randn(5, 7, generator=torch.Generator().manual_seed(1)), 1)
    y_RD = body(x_BVD, angle_UX, DensePairs(torch.ones(2, 5, 1)))
    before, after = (torch.hypot(*rows.chunk(2, dim=-1)) for rows in (x_BVD, y_RD))
    torch.testing.assert_close(after, before.expand_as(after), rtol=1e-4, atol=1e-5)
    two = body(x_BVD.expand(2, 2, 12) * torch.tensor([1.0, 3.0])[:, None], angle_UX, DensePairs(torch.ones(2, 5, 2)))
    torch.testing.assert_close(two, torch.stack([1.5 * y_RD[..., 0, :], 2.5 * y_RD[..., 0, :]], dim=-2))


@pytest.mark.usefixtures("swirl")
def test_example_refuses_an_odd_width() -> None:
    with pytest.raises(RecipeError) as caught:
        build_model(recipe_of("model.width=13"))
    assert str(caught.value).splitlines()[0] == (
        "recipe:12:9: error: model.body: swirl turns pairs of features, so it needs an even width, not 13"
    )


@pytest.mark.usefixtures("swirl")
def test_class_of_the_example_is_a_component() -> None:
    assert issubclass(component("body", "swirl"), contracts.Body)
