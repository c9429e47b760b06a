"""Every report of a wrong recipe, word by word as it stands in `errors/recipe.txt`."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest

from ni_framework.errors import PluginError, RecipeError
from ni_framework.recipe import load
from tests.helpers.error_texts import expected_errors
from tests.helpers.recipe_components import VALID, resolve
from tests.helpers.recipe_error_cases import CASES


def report(name: str, folder: Path) -> str:
    """What a user reads who loads the recipe of a case, with its exit code."""
    content, overrides = CASES[name]
    (folder / "recipe.yaml").write_bytes(content)
    with chdir(folder), pytest.raises((RecipeError, PluginError)) as caught:
        load("recipe.yaml", overrides, resolve=resolve)
    text = f"{caught.value}\n[exit {caught.value.exit_code}]\n"
    assert text.isprintable() or set(filter(lambda character: not character.isprintable(), text)) <= {"\n", "\t"}
    return text


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The reports in the snapshot."""
    return expected_errors("recipe", CASES, lambda name: report(name, tmp_path_factory.mktemp("case")))


@pytest.mark.parametrize("name", CASES)
def test_report(name: str, tmp_path: Path, expected: dict[str, str]) -> None:
    """The report of each case is the one in the snapshot."""
    assert report(name, tmp_path) == expected.get(name)


def test_snapshot_has_no_other_cases(expected: dict[str, str]) -> None:
    """The snapshot names the cases in their order, so that none is left behind when one is renamed."""
    assert list(expected) == list(CASES)


def test_recipe_of_the_cases_is_valid(tmp_path: Path) -> None:
    """What the cases spoil is in order before."""
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID)
    assert load(path, resolve=resolve).seed == 3
