"""Golden texts of every shipped recipe: its resolved values and the table of its parameters, so that a review shows changes.

Recipes that are too large to be built here are in `test_scale.py`.

Rewrite with `NI_REWRITE=1 pytest tests/golden`, then read the difference. Statistics are compared with a tolerance, everything
else exactly.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch

from ni_framework.model.compose import build_model
from ni_framework.recipe import dump
from ni_framework.registry import load_recipe

GOLDEN_DIR = Path(__file__).parent
RECIPES = GOLDEN_DIR.parent.parent / "recipes"
RECIPE_NAMES = sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))
# See test_scale.py.
LARGE_RECIPES = [name for name in RECIPE_NAMES if name.startswith("scale/") and name != "scale/small"]
BUILDABLE_RECIPES = [name for name in RECIPE_NAMES if name not in LARGE_RECIPES]


def golden_path(name: str) -> Path:
    """The file with a recipe's text: for `recipes/paper/digits.yaml` it is `paper/digits.txt`."""
    return GOLDEN_DIR / f"{name}.txt"


def recipe_summary(name: str) -> str:
    """The values, then one line for each parameter: name, shape, initial mean and standard deviation."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    model = build_model(recipe)
    lines = []
    for parameter_name, parameter in model.named_parameters():
        value = parameter.detach().double()
        frozen = "" if parameter.requires_grad else " frozen"
        shape = "x".join(map(str, value.shape)) or "scalar"
        mean, deviation = format_significant(value.mean()), format_significant(value.std(correction=0))
        lines.append(f"{parameter_name}{frozen} {shape} {mean} {deviation}")
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"{dump(recipe)}\n# {total:,} parameters: name, shape, mean, deviation\n" + "\n".join(lines) + "\n"


def format_significant(value: torch.Tensor) -> str:
    """A number with four significant digits."""
    return f"{value.item() + 0.0:.4g}"


def split_statistics(text: str) -> tuple[list[str], list[list[str]]]:
    """The lines that are compared exactly, and the two statistics of each parameter."""
    values, _, table = text.partition("\n# ")
    rows = [line.rsplit(" ", 2) for line in table.splitlines()[1:]]
    return [values, table.partition("\n")[0], *(row[0] for row in rows)], [row[1:] for row in rows]


def test_there_are_recipes() -> None:
    assert {"digits", "scale/small"} <= set(BUILDABLE_RECIPES)
    assert LARGE_RECIPES


@pytest.mark.parametrize("name", BUILDABLE_RECIPES)
def test_recipe_has_not_changed(name: str) -> None:
    summary = recipe_summary(name)
    if os.environ.get("NI_REWRITE"):
        golden_path(name).parent.mkdir(parents=True, exist_ok=True)
        golden_path(name).write_text(summary, encoding="utf-8")
    exact, statistics = split_statistics(golden_path(name).read_text(encoding="utf-8"))
    new_exact, new_statistics = split_statistics(summary)
    assert new_exact == exact
    for parameter, row, new_row in zip(exact[2:], statistics, new_statistics, strict=True):
        for number, new_number in zip(row, new_row, strict=True):
            assert math.isclose(float(new_number), float(number), rel_tol=2e-3, abs_tol=1e-6), parameter


@pytest.mark.parametrize("name", BUILDABLE_RECIPES)
def test_recipe_builds_without_memory(name: str) -> None:
    """The parameters on the meta device are the same."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    real, meta = build_model(recipe), build_model(recipe, "meta")
    assert [(n, p.shape) for n, p in real.named_parameters()] == [(n, p.shape) for n, p in meta.named_parameters()]
    assert all(parameter.is_meta for parameter in meta.parameters())
