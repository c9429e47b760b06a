"""`ni new recipe`: the recipe is complete, its comments are correct, and it trains."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from ni_framework import load_recipe
from ni_framework.recipe.schema import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    SkipConfig,
    TrainConfig,
)
from tests.cli.conftest import RunNi


@pytest.fixture
def starter_recipe(ni: RunNi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes recipe.yaml to the working folder and returns its text."""
    monkeypatch.chdir(tmp_path)
    result = ni("new", "recipe")
    assert (result.code, result.out) == (0, "recipe.yaml\nnext: ni check recipe.yaml, then ni train recipe.yaml\n")
    return Path("recipe.yaml").read_text()


def test_starter_recipe_trains(ni: RunNi, starter_recipe: str) -> None:
    assert ni("check", "recipe.yaml").out.startswith("recipe.yaml: ok, 55,403 parameters")
    result = ni("train", "recipe.yaml", "train.steps=3", "--output", "run")
    assert result.code == 0, result.err


def test_starter_recipe_has_every_key(starter_recipe: str) -> None:
    """Every key is set or commented out, with its help text, in lines that fit on a screen."""
    for cls in (Recipe, ModelConfig, TrainConfig, OptimizerConfig, ScheduleConfig, SkipConfig, EngineConfig):
        for field in attrs.fields(cls):
            if "help" in field.metadata:
                assert re.search(rf"^[ #]*{field.name}:.*  # \S", starter_recipe, re.M), field.name
    assert max(map(len, starter_recipe.splitlines())) <= 120


def test_commented_keys_are_defaults(starter_recipe: str) -> None:
    """Removing the # before the keys does not change the recipe."""
    plain = re.sub(r"^( {0,4})# (( {0,4})\w+:)", r"\1\2", starter_recipe.partition("\n\n")[2], flags=re.M)
    assert plain.count("\n#") + plain.count("\n  #") == 0
    Path("plain.yaml").write_text(plain)
    assert load_recipe("plain.yaml") == load_recipe("recipe.yaml")


def test_nothing_is_overwritten(ni: RunNi, starter_recipe: str) -> None:
    """An existing file is not overwritten, and a missing folder is not created."""
    result = ni("new", "recipe")
    assert result.code == 2
    assert result.err == "error: recipe.yaml: exists already and was not changed; name another PATH\n"
    result = ni("new", "recipe", "nowhere/mine.yaml")
    assert result.code == 2
    assert result.err == "error: nowhere: is not a folder; create it first, or name another PATH\n"
    assert ni("new", "recipe", "mine.yaml", "--json").json == {"recipe": "mine.yaml"}
    assert "ni train mine.yaml" in Path("mine.yaml").read_text()


def test_path_with_special_characters(ni: RunNi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are quoted in commands, and a newline in a path does not end a comment."""
    monkeypatch.chdir(tmp_path)
    assert ni("new", "recipe", "my recipe.yaml").out == (
        "my recipe.yaml\nnext: ni check 'my recipe.yaml', then ni train 'my recipe.yaml'\n"
    )
    assert "#   ni check 'my recipe.yaml'  " in Path("my recipe.yaml").read_text()
    assert ni("new", "recipe", "two\nlines.yaml").code == 0
    assert ni("check", "two\nlines.yaml").code == 0


def test_measurements_in_header_apply(starter_recipe: str) -> None:
    """The times and metrics in the header were measured with recipes/digits.yaml, which is the same recipe."""
    assert load_recipe("recipe.yaml") == load_recipe(Path(__file__).parents[2] / "recipes" / "digits.yaml")
