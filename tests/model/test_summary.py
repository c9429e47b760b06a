"""The tables of a model's parameters: what is equal stands in one row, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework import load_recipe
from ni_framework.model.summary import Description, Row, describe

RECIPES = Path(__file__).parents[2] / "recipes"


def described(*parameters: tuple[str, tuple[int, ...]]) -> Description:
    """A description of these parameters alone."""
    return Description({}, list(parameters))


def test_equal_neighbours_are_one_row() -> None:
    """At every depth, and each with its own times."""
    parameters = [(f"scripts.{script}.body.lines.{line}.weight", (2, 3)) for script in range(12) for line in range(2)]
    assert described(*parameters).tensors == [Row("scripts.0-11.body.lines.0-1.weight", 24, 6, (2, 3))]
    assert described(*parameters).parts == [Row("scripts.0-11", 12, 12), Row("scripts.0-11.body", 12, 12)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a.0.w", "a.2.w"), ["a.0.w", "a.2.w"]),
        (("a.x.w", "a.y.w"), ["a.x.w", "a.y.w"]),
        (("a.1.w", "a.0.w"), ["a.1.w", "a.0.w"]),
        (("a.0", "a.1"), ["a.0-1"]),
        (("a.0.w", "a.1.v"), ["a.0.w", "a.1.v"]),
    ],
    ids=["a gap", "no numbers", "falling", "tensors in a list", "other names"],
)
def test_what_is_one_row(names: tuple[str, ...], expected: list[str]) -> None:
    """Neighbours with rising numbers whose content is the same."""
    assert [row.name for row in described(*((name, (4,)) for name in names)).tensors] == expected


def test_other_shapes_are_other_rows() -> None:
    """The largest first; a script that differs interrupts those around it."""
    parameters = [(f"scripts.{script}.w", (size,)) for script, size in enumerate((2, 2, 5, 2))]
    rows = described(*parameters, ("head.bias", ())).tensors
    assert [(row.name, row.total) for row in rows] == [
        ("scripts.2.w", 5),
        ("scripts.0-1.w", 4),
        ("scripts.3.w", 2),
        ("head.bias", 1),
    ]


@pytest.mark.parametrize("name", ["digits", "digits_multitask", "scale/small", "scale/10b"])
def test_nothing_is_lost(name: str) -> None:
    """All rows together are all parameters, and so are all parts but those of scripts."""
    description = describe(load_recipe(RECIPES / f"{name}.yaml"))
    total = description.sizes["parameters"]
    assert sum(row.total for row in description.tensors) == total
    assert sum(row.times for row in description.tensors) == len(description.parameters)
    parts = description.parts
    assert sum(row.total for row in parts if row.name.count(".") == row.name.startswith("scripts.")) == total
    of_scripts = [row for row in parts if row.name.startswith("scripts.")]
    whole = sum(row.total for row in of_scripts if row.name.count(".") == 1)
    assert sum(row.total for row in of_scripts if row.name.count(".") == 2) == whole


def test_summary_counts_equal_scripts() -> None:
    """And says one by one what differs."""
    sizes = {"parameters": 1000, "elements": 5, "scripts": [[3, 2], [3, 2], [4, 2]]}
    assert Description(sizes, []).summary == (
        "1,000 parameters, 5 elements, 2 scripts of 3 functions x 2 iterations, 4 functions x 2 iterations"
    )
