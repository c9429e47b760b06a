"""Every report of a wrong recipe, word by word as it stands in `errors.txt`.

After a change of words: `NI_WRITE_ERRORS=1 pytest tests/recipe/test_errors.py`, then read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ni_framework.errors import PluginError, RecipeError
from ni_framework.recipe import load
from tests.recipe.cases import CASES
from tests.recipe.components import VALID, resolve

EXPECTED = Path(__file__).with_name("errors.txt")


def report(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a user reads who loads the recipe of a case, with its exit code."""
    content, overrides = CASES[name]
    monkeypatch.chdir(folder)
    Path("recipe.yaml").write_bytes(content)
    with pytest.raises((RecipeError, PluginError)) as caught:
        load("recipe.yaml", overrides, resolve=resolve)
    text = f"{caught.value}\n[exit {caught.value.exit_code}]\n"
    assert text.isprintable() or set(filter(lambda character: not character.isprintable(), text)) <= {"\n", "\t"}
    return text


def blocks(text: str) -> dict[str, str]:
    """The reports of a snapshot by the names of their cases."""
    parts = text.split("=== ")[1:]
    return {name: body.strip("\n") + "\n" for name, _, body in (part.partition("\n") for part in parts)}


@pytest.mark.parametrize("name", CASES)
def test_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of each case is the one in the snapshot."""
    if os.environ.get("NI_WRITE_ERRORS"):
        pytest.skip("the snapshot is being written")
    assert report(name, tmp_path, monkeypatch) == blocks(EXPECTED.read_text(encoding="utf-8")).get(name)


def test_snapshot_has_no_other_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot names the cases in their order, so that none is left behind when one is renamed."""
    if os.environ.get("NI_WRITE_ERRORS"):
        text = "".join(f"=== {name}\n{report(name, tmp_path, monkeypatch)}\n" for name in CASES)
        EXPECTED.write_text(text, encoding="utf-8")
    assert list(blocks(EXPECTED.read_text(encoding="utf-8"))) == list(CASES)


def test_recipe_of_the_cases_is_valid(tmp_path: Path) -> None:
    """What the cases spoil is in order before."""
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID)
    assert load(path, resolve=resolve).seed == 3
