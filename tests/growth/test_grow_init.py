"""Initial values of added functions near existing ones, with a body of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.checkpoint.loaded_checkpoint import LoadedCheckpoint
from ni_framework.growth.grow import GrowOptions, grow_checkpoint
from tests.helpers.small_recipe import load_small_recipe, save_small_checkpoint


@pytest.mark.parametrize(
    ("body", "init", "copied"),
    [
        ("lines_of_code", "near=f1", True),
        ("lines_of_code", "random", False),
        ("{use: lines_of_code, heads: 2, key: 4}", "near=f1", False),
    ],
)
def test_added_body_begins_with_the_weights_of_the_reference_body(
    tmp_path: Path, body: str, init: str, copied: bool
) -> None:
    before = save_small_checkpoint(tmp_path / "before", load_small_recipe(tmp_path), 6)
    document = grow_checkpoint(before, tmp_path / "after", GrowOptions(add=2, body=body, init=init))
    weights = LoadedCheckpoint.load(tmp_path / "after").weights
    own = {name: value for name, value in weights.items() if name.startswith("scripts.0.bodies.0.")}
    same = [value.equal(weights[name.replace("bodies.0", "body")]) for name, value in own.items() if "weight" in name]
    assert len(same) > 6
    assert all(same) == copied
    assert document["change"]["computed"] == 0


@pytest.mark.parametrize(("tasks", "gate"), [(None, 0), ("letters:26", 1)])
def test_gates_of_functions_for_new_tasks_begin_at_one(tmp_path: Path, tasks: str | None, gate: int) -> None:
    before = save_small_checkpoint(tmp_path / "before", load_small_recipe(tmp_path), 6)
    document = grow_checkpoint(before, tmp_path / "after", GrowOptions(add=2, init="near=f1", tasks=tasks))
    assert LoadedCheckpoint.load(tmp_path / "after").weights["scripts.0.gates"].tolist() == [gate, gate]
    assert document["change"]["computed"] == 0
