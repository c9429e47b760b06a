"""Every recipe that is shipped, as resolved values and as the table of its parameters: a review shows what a change moved.

Those too large to be given values here are in `test_scale.py`.

Rewrite with `NI_REWRITE=1 pytest tests/golden`, then read the difference. Statistics are compared with a tolerance, all
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

HERE = Path(__file__).parent
RECIPES = HERE.parent.parent / "recipes"
NAMES = sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))
LARGE = [name for name in NAMES if name.startswith("scale/") and name != "scale/small"]  # see test_scale.py
REAL = [name for name in NAMES if name not in LARGE]


def golden_of(name: str) -> Path:
    """Where a recipe's text stands: `recipes/paper/digits.yaml` in `paper/digits.txt`."""
    return HERE / f"{name}.txt"


def text_of(name: str) -> str:
    """Values, then one line per parameter: name, shape, mean and standard deviation at the start."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    model = build_model(recipe)
    lines = []
    for parameter_name, parameter in model.named_parameters():
        value = parameter.detach().double()
        frozen = "" if parameter.requires_grad else " frozen"
        shape = "x".join(map(str, value.shape)) or "scalar"
        mean, deviation = significant(value.mean()), significant(value.std(correction=0))
        lines.append(f"{parameter_name}{frozen} {shape} {mean} {deviation}")
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"{dump(recipe)}\n# {total:,} parameters: name, shape, mean, deviation\n" + "\n".join(lines) + "\n"


def significant(value: torch.Tensor) -> str:
    """Four digits."""
    return f"{value.item() + 0.0:.4g}"


def divided(text: str) -> tuple[list[str], list[list[str]]]:
    """What is compared exactly, and the two statistics of each parameter."""
    values, _, table = text.partition("\n# ")
    rows = [line.rsplit(" ", 2) for line in table.splitlines()[1:]]
    return [values, table.partition("\n")[0], *(row[0] for row in rows)], [row[1:] for row in rows]


def test_there_are_recipes() -> None:
    assert {"digits", "scale/small"} <= set(REAL)
    assert LARGE


@pytest.mark.parametrize("name", REAL)
def test_recipe_is_as_it_was(name: str) -> None:
    found = text_of(name)
    if os.environ.get("NI_REWRITE"):
        golden_of(name).parent.mkdir(parents=True, exist_ok=True)
        golden_of(name).write_text(found, encoding="utf-8")
    exact, statistics = divided(golden_of(name).read_text(encoding="utf-8"))
    exact_found, statistics_found = divided(found)
    assert exact_found == exact
    for parameter, row, row_found in zip(exact[2:], statistics, statistics_found, strict=True):
        for number, number_found in zip(row, row_found, strict=True):
            assert math.isclose(float(number_found), float(number), rel_tol=2e-3, abs_tol=1e-6), parameter


@pytest.mark.parametrize("name", REAL)
def test_recipe_builds_without_memory(name: str) -> None:
    """The same parameters on the meta device."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    real, meta = build_model(recipe), build_model(recipe, "meta")
    assert [(n, p.shape) for n, p in real.named_parameters()] == [(n, p.shape) for n, p in meta.named_parameters()]
    assert all(parameter.is_meta for parameter in meta.parameters())
