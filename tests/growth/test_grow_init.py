"""Functions that begin beside another, with a body of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.checkpoint.loaded_checkpoint import Whole
from ni_framework.growth.grow import Asked, grow
from tests.helpers.small_recipe import save_small, small_recipe


@pytest.mark.parametrize(
    ("body", "init", "copied"),
    [
        ("lines_of_code", "near=f1", True),
        ("lines_of_code", "random", False),
        ("{use: lines_of_code, heads: 2, key: 4}", "near=f1", False),
    ],
)
def test_an_own_body_begins_as_that_of_the_function_beside_it(
    tmp_path: Path, body: str, init: str, copied: bool
) -> None:
    before = save_small(tmp_path / "before", small_recipe(tmp_path), 6)
    document = grow(before, tmp_path / "after", Asked(add=2, body=body, init=init))
    weights = Whole.of(tmp_path / "after").weights
    own = {name: value for name, value in weights.items() if name.startswith("scripts.0.bodies.0.")}
    same = [value.equal(weights[name.replace("bodies.0", "body")]) for name, value in own.items() if "weight" in name]
    assert len(same) > 6
    assert all(same) == copied
    assert document["change"]["computed"] == 0


@pytest.mark.parametrize(("tasks", "gate"), [(None, 0), ("letters:26", 1)])
def test_functions_of_new_tasks_take_part_in_full_from_the_start(tmp_path: Path, tasks: str | None, gate: int) -> None:
    before = save_small(tmp_path / "before", small_recipe(tmp_path), 6)
    document = grow(before, tmp_path / "after", Asked(add=2, init="near=f1", tasks=tasks))
    assert Whole.of(tmp_path / "after").weights["scripts.0.gates"].tolist() == [gate, gate]
    assert document["change"]["computed"] == 0
