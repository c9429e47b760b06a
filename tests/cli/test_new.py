"""`ni new recipe`: what it writes is true, complete, and trains."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from ni_framework import load_recipe
from ni_framework.recipe.schema import Engine, Model, Optimizer, Recipe, Schedule, Skip, Train
from tests.cli.conftest import Ni


@pytest.fixture
def written(ni: Ni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe's text, in a file recipe.yaml in the working folder."""
    monkeypatch.chdir(tmp_path)
    done = ni("new", "recipe")
    assert (done.code, done.out) == (0, "recipe.yaml\nnext: ni check recipe.yaml, then ni train recipe.yaml\n")
    return Path("recipe.yaml").read_text()


def test_it_trains(ni: Ni, written: str) -> None:
    """As it is."""
    assert ni("check", "recipe.yaml").out.startswith("recipe.yaml: ok, 55,403 parameters")
    done = ni("train", "recipe.yaml", "train.steps=3", "--output", "run")
    assert done.code == 0, done.err


def test_it_holds_every_key(written: str) -> None:
    """Set, or commented out; each with what it is for, in lines that fit a screen."""
    for cls in (Recipe, Model, Train, Optimizer, Schedule, Skip, Engine):
        for field in attrs.fields(cls):
            if "help" in field.metadata:
                assert re.search(rf"^[ #]*{field.name}:.*  # \S", written, re.M), field.name
    assert max(map(len, written.splitlines())) <= 120


def test_its_comments_are_the_defaults(written: str) -> None:
    """Without the # the same recipe is read."""
    plain = re.sub(r"^( {0,4})# (( {0,4})\w+:)", r"\1\2", written.partition("\n\n")[2], flags=re.M)
    assert plain.count("\n#") + plain.count("\n  #") == 0
    Path("plain.yaml").write_text(plain)
    assert load_recipe("plain.yaml") == load_recipe("recipe.yaml")


def test_nothing_is_overwritten(ni: Ni, written: str) -> None:
    """And no folder is made by the way."""
    done = ni("new", "recipe")
    assert (done.code, done.err) == (
        2,
        "error: recipe.yaml: exists already and is left as it is; name another PATH\n",
    )
    done = ni("new", "recipe", "nowhere/mine.yaml")
    assert (done.code, done.err) == (
        2,
        "error: nowhere: is no folder; make it first, or name another PATH\n",
    )
    assert ni("new", "recipe", "mine.yaml", "--json").json == {"recipe": "mine.yaml"}
    assert "ni train mine.yaml" in Path("mine.yaml").read_text()


def test_paths_that_a_shell_would_split(ni: Ni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are quoted where they stand in commands, and a line end in one ends no comment."""
    monkeypatch.chdir(tmp_path)
    assert ni("new", "recipe", "my recipe.yaml").out == (
        "my recipe.yaml\nnext: ni check 'my recipe.yaml', then ni train 'my recipe.yaml'\n"
    )
    assert "#   ni check 'my recipe.yaml'  " in Path("my recipe.yaml").read_text()
    assert ni("new", "recipe", "two\nlines.yaml").code == 0
    assert ni("check", "two\nlines.yaml").code == 0


def test_its_head_is_true(written: str) -> None:
    """What it says of time and figures was measured with recipes/digits.yaml, which is the same recipe."""
    assert load_recipe("recipe.yaml") == load_recipe(Path(__file__).parents[2] / "recipes" / "digits.yaml")
