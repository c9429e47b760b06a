"""The example in the docstring of `contracts` is a complete plugin: it is installed from there and trained in both layouts."""

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
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.describe import describe_component
from ni_framework.registry.resolve import resolve_component, resolve_config
from ni_framework.training.train import train
from tests.helpers.distributions import InstallDistribution

DOCSTRING = contracts.__doc__ or ""
EXAMPLE_RECIPE = """
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


def docstring_between(start: str, end: str) -> str:
    """The part of the docstring from one text to before another, without its indentation."""
    assert DOCSTRING.count(start) == 1
    first = DOCSTRING.index(start)
    return textwrap.dedent(DOCSTRING[first : DOCSTRING.index(end, first)])


def example_source() -> str:
    return docstring_between("    import torch\n", "Rules for every component")


def example_entry_points() -> dict[str, dict[str, str]]:
    """The entry points in the docstring, by kind."""
    table = tomllib.loads(docstring_between("    [project.entry-points", "A complete example"))
    groups = table["project"]["entry-points"]
    return {group.removeprefix("ni_framework."): entries for group, entries in groups.items()}


@pytest.fixture
def example_plugin(install: InstallDistribution) -> None:
    install("ni_swirl", example_source(), example_entry_points())


def example_recipe(*overrides: str) -> Recipe:
    return recipes.loads(EXAMPLE_RECIPE, overrides, resolve=resolve_config)


class LossCollector:
    """Collects the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    @hookimpl
    def run_step(self, values: dict[str, torch.Tensor]) -> None:
        self.values.append(float(values["loss"]))


def train_and_collect_losses(recipe: Recipe, run: Path) -> list[float]:
    listener = LossCollector()
    train(recipe, run, listeners=[listener])
    return listener.values


@pytest.mark.usefixtures("example_plugin")
def test_example_is_found_and_described() -> None:
    assert example_entry_points() == {"body": {"swirl": "ni_swirl:Swirl"}}
    entry = installed_catalog().find("body", "swirl")
    assert (entry.source, entry.value) == ("ni-swirl 0.1", "ni_swirl:Swirl")
    (described,) = describe_component("swirl")
    assert described["doc"] == (
        "Rotates halves of the features into each other, and moves elements towards their mean: [B, V, D] -> [R, D]."
    )
    assert described["options"] == [
        {"name": "strength", "type": "float", "default": "1.0", "help": "largest angle, in radians"}
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("example_plugin")
def test_example_trains_alike_in_both_layouts(tmp_path: Path) -> None:
    dense = train_and_collect_losses(example_recipe("model.execution=dense"), tmp_path / "dense")
    packed = train_and_collect_losses(example_recipe("model.execution=packed"), tmp_path / "packed")
    other = train_and_collect_losses(example_recipe("model.body.strength=0.1"), tmp_path / "other")
    assert len(dense) == 2
    assert dense == pytest.approx(packed, abs=1e-5)
    assert abs(dense[0] - other[0]) > 1e-5
    assert dense[0] != dense[1]


@pytest.mark.usefixtures("example_plugin")
def test_all_parameters_of_the_example_have_gradients() -> None:
    """The CLS element depends on the other elements through their mean."""
    model = build_model(example_recipe())
    model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)))["digits"].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.usefixtures("example_plugin")
def test_example_rotates_and_averages() -> None:
    """With a single element the mean is the element itself, and a rotation keeps the length of each pair of features."""
    body: Any = next(iter(build_model(example_recipe()).scripts)).body
    x_BVD = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(0))
    angle_UX = body.prepare(torch.randn(5, 7, generator=torch.Generator().manual_seed(1)), 1)
    y_RD = body(x_BVD, angle_UX, DensePairs(torch.ones(2, 5, 1)))
    before, after = (torch.hypot(*rows.chunk(2, dim=-1)) for rows in (x_BVD, y_RD))
    torch.testing.assert_close(after, before.expand_as(after), rtol=1e-4, atol=1e-5)
    two = body(x_BVD.expand(2, 2, 12) * torch.tensor([1.0, 3.0])[:, None], angle_UX, DensePairs(torch.ones(2, 5, 2)))
    torch.testing.assert_close(two, torch.stack([1.5 * y_RD[..., 0, :], 2.5 * y_RD[..., 0, :]], dim=-2))


@pytest.mark.usefixtures("example_plugin")
def test_example_rejects_an_odd_width() -> None:
    with pytest.raises(RecipeError) as caught:
        build_model(example_recipe("model.width=13"))
    assert str(caught.value).splitlines()[0] == (
        "recipe:12:9: error: model.body: swirl rotates pairs of features, so it needs an even width, not 13"
    )


@pytest.mark.usefixtures("example_plugin")
def test_class_of_the_example_is_a_component() -> None:
    assert issubclass(resolve_component("body", "swirl"), contracts.Body)
