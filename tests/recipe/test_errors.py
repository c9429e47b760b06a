"""The complete error report of every wrong recipe, as stored in `tests/error_texts/recipe.txt`."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest

from ni_framework.errors import PluginError, RecipeError
from ni_framework.recipe import load
from tests.helpers.error_texts import expected_errors
from tests.helpers.recipe_components import VALID_RECIPE, resolve_component
from tests.helpers.recipe_error_cases import RECIPE_ERROR_CASES


def recipe_error_report(name: str, folder: Path) -> str:
    """The error report for the recipe of a case, with its exit code."""
    content, overrides = RECIPE_ERROR_CASES[name]
    (folder / "recipe.yaml").write_bytes(content)
    with chdir(folder), pytest.raises((RecipeError, PluginError)) as caught:
        load("recipe.yaml", overrides, resolve=resolve_component)
    text = f"{caught.value}\n[exit {caught.value.exit_code}]\n"
    assert text.isprintable() or set(filter(lambda character: not character.isprintable(), text)) <= {"\n", "\t"}
    return text


@pytest.fixture(scope="module")
def expected_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The stored reports."""
    return expected_errors(
        "recipe", RECIPE_ERROR_CASES, lambda name: recipe_error_report(name, tmp_path_factory.mktemp("case"))
    )


@pytest.mark.parametrize("name", RECIPE_ERROR_CASES)
def test_report(name: str, tmp_path: Path, expected_reports: dict[str, str]) -> None:
    """The report of each case is the stored one."""
    assert recipe_error_report(name, tmp_path) == expected_reports.get(name)


def test_stored_reports_are_those_of_the_cases(expected_reports: dict[str, str]) -> None:
    """In the same order, so that no old report remains when a case is renamed."""
    assert list(expected_reports) == list(RECIPE_ERROR_CASES)


def test_recipe_of_the_cases_is_valid(tmp_path: Path) -> None:
    """The recipe that the cases change is valid without the change."""
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID_RECIPE)
    assert load(path, resolve=resolve_component).seed == 3
