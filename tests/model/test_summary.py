"""The tables of a model's parameters: equal entries share one row, and no parameter is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework import load_recipe
from ni_framework.model.summary import ModelSummary, SummaryRow, summarize_model

RECIPES = Path(__file__).parents[2] / "recipes"


def summarize_parameters(*parameters: tuple[str, tuple[int, ...]]) -> ModelSummary:
    """A summary of these parameters alone."""
    return ModelSummary({}, list(parameters))


def test_equal_neighbours_are_one_row() -> None:
    """At every depth, each with its own number of repeats."""
    parameters = [(f"scripts.{script}.body.lines.{line}.weight", (2, 3)) for script in range(12) for line in range(2)]
    assert summarize_parameters(*parameters).tensor_rows == [
        SummaryRow("scripts.0-11.body.lines.0-1.weight", 24, 6, (2, 3))
    ]
    assert summarize_parameters(*parameters).module_rows == [
        SummaryRow("scripts.0-11", 12, 12),
        SummaryRow("scripts.0-11.body", 12, 12),
    ]


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
def test_only_equal_neighbours_share_a_row(names: tuple[str, ...], expected: list[str]) -> None:
    """Neighbours with consecutive numbers and equal content."""
    assert [row.name for row in summarize_parameters(*((name, (4,)) for name in names)).tensor_rows] == expected


def test_different_shapes_are_different_rows() -> None:
    """The largest comes first; a script that differs separates those before and after it."""
    parameters = [(f"scripts.{script}.w", (size,)) for script, size in enumerate((2, 2, 5, 2))]
    rows = summarize_parameters(*parameters, ("head.bias", ())).tensor_rows
    assert [(row.name, row.total_numel) for row in rows] == [
        ("scripts.2.w", 5),
        ("scripts.0-1.w", 4),
        ("scripts.3.w", 2),
        ("head.bias", 1),
    ]


@pytest.mark.parametrize("name", ["digits", "digits_multitask", "scale/small", "scale/10b"])
def test_rows_add_up_to_all_parameters(name: str) -> None:
    """Both the rows of tensors and the rows of modules."""
    summary = summarize_model(load_recipe(RECIPES / f"{name}.yaml"))
    total = summary.sizes["parameters"]
    assert sum(row.total_numel for row in summary.tensor_rows) == total
    assert sum(row.repeats for row in summary.tensor_rows) == len(summary.parameters)
    modules = summary.module_rows
    assert sum(row.total_numel for row in modules if row.name.count(".") == row.name.startswith("scripts.")) == total
    script_rows = [row for row in modules if row.name.startswith("scripts.")]
    scripts_total = sum(row.total_numel for row in script_rows if row.name.count(".") == 1)
    assert sum(row.total_numel for row in script_rows if row.name.count(".") == 2) == scripts_total


def test_summary_counts_equal_scripts() -> None:
    """Scripts that differ are listed one by one."""
    sizes = {"parameters": 1000, "elements": 5, "scripts": [[3, 2], [3, 2], [4, 2]]}
    assert ModelSummary(sizes, []).one_line == (
        "1,000 parameters, 5 elements, 2 scripts of 3 functions x 2 iterations, 4 functions x 2 iterations"
    )
