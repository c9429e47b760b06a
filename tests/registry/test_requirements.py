"""The key `requires` of a recipe: distributions that must be installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.errors import PluginError, RecipeError
from ni_framework.registry import installed_catalog, load_recipe
from ni_framework.registry.requirements import check_requirement
from tests.helpers.distributions import InstallDistribution

REQUIRING_RECIPE = """ni: 1
requires: [REQUIRED]
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 3
  functions: 5
  code: 7
  type: 6
data: {use: digits}
train: {steps: 2, batch: 9}
"""


def load_requiring(required: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads a recipe with this text in the list `requires`."""
    monkeypatch.chdir(folder)
    Path("needy.yaml").write_text(REQUIRING_RECIPE.replace("REQUIRED", required))
    load_recipe("needy.yaml")


def test_requirement_that_is_met(install: InstallDistribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("ni_odd", "", {}, version="0.3")
    load_requiring("ni-odd>=0.2, torch", tmp_path, monkeypatch)


def test_requirement_that_is_not_met(
    install: InstallDistribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent distribution and one that is too old are reported together."""
    install("ni_odd", "", {}, version="0.1")
    with pytest.raises(PluginError) as caught:
        load_requiring("ni-odd>=0.2, ni-nobody", tmp_path, monkeypatch)
    assert str(caught.value) == (
        "needy.yaml:2:12: error: requires.0: ni-odd 0.1 does not meet ni-odd>=0.2\n"
        "    requires: [ni-odd>=0.2, ni-nobody]\n"
        "               ^\n"
        "  help: pip install 'ni-odd>=0.2'\n"
        "needy.yaml:2:25: error: requires.1: ni-nobody is not installed\n"
        "    requires: [ni-odd>=0.2, ni-nobody]\n"
        "                            ^\n"
        "  help: pip install 'ni-nobody'"
    )


def test_text_that_is_not_a_requirement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError) as caught:
        load_requiring('">>"', tmp_path, monkeypatch)
    assert str(caught.value).splitlines()[0] == (
        "needy.yaml:2:12: error: requires.0: must be a requirement such as 'ni-swirl>=0.1', not '>>'"
    )


def test_absent_distribution_explains_an_unknown_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4 with the pip command and both places; a recipe with other mistakes gets all of them and exit code 3."""
    monkeypatch.chdir(tmp_path)
    text = REQUIRING_RECIPE.replace("REQUIRED", "ni-swirl>=0.1").replace("  type: 6", "  type: 6\n  body: {use: swirl}")
    Path("needy.yaml").write_text(text)
    with pytest.raises(PluginError) as caught:
        load_recipe("needy.yaml")
    assert str(caught.value) == (
        "needy.yaml:2:12: error: requires.0: ni-swirl is not installed\n"
        "    requires: [ni-swirl>=0.1]\n"
        "               ^\n"
        "  help: pip install 'ni-swirl>=0.1'\n"
        "needy.yaml:10:15: error: model.body: there is no body `swirl`\n"
        "      body: {use: swirl}\n"
        "                  ^\n"
        f"  help: installed are: {', '.join(installed_catalog().names('body'))}; install the distribution that provides it"
    )
    Path("needy.yaml").write_text(text.replace("width", "widht"))
    with pytest.raises(RecipeError) as mistaken:
        load_recipe("needy.yaml")
    for text_part in ("widht", "pip install 'ni-swirl>=0.1'", "no body `swirl`"):
        assert text_part in str(mistaken.value)
    Path("needy.yaml").write_text(text.replace("ni-swirl>=0.1", "torch"))
    with pytest.raises(RecipeError, match="there is no body `swirl`"):
        load_recipe("needy.yaml")


EXTRA_METADATA = """Provides-Extra: fast
Requires-Dist: ni-nobody>=2; extra == "fast"
Requires-Dist: ni-elsewhere; extra == "slow"
"""
REQUIREMENT_CASES = {
    "a marker that does not apply": ("ni-nobody; python_version < '3'", None),
    "a marker that applies": (
        "ni-nobody>1; python_version > '3'",
        "ni-nobody is not installed|pip install 'ni-nobody>1'",
    ),
    "a marker of an extra": ("ni-nobody; extra == 'fast'", None),
    "an extra whose requirements are absent": (
        "ni-odd[fast]",
        "its extra `fast` is not complete: ni-nobody is not installed|pip install 'ni-odd[fast]'",
    ),
    "an unknown extra": ("ni-odd[slow]", "ni-odd 0.1 has no extra `slow`|pip install 'ni-odd[slow]'"),
    "a name in another spelling": ("NI_Odd==0.1", None),
    "an address": ("ni-nobody @ https://x/'", "ni-nobody is not installed|pip install 'ni-nobody @ https://x/'\"'\"''"),
}


@pytest.mark.parametrize("name", REQUIREMENT_CASES)
def test_extras_and_markers(name: str, install: InstallDistribution) -> None:
    """They are read as pip reads them, and the command in the hint can be pasted into a shell."""
    folder = install("ni_odd", "", {})
    with open(folder / "ni_odd-0.1.dist-info" / "METADATA", "a") as file:
        file.write(EXTRA_METADATA)
    text, expected = REQUIREMENT_CASES[name]
    problem = check_requirement(text)
    assert (problem and f"{problem.message}|{problem.hint}") == expected


def test_requiring_enables_nothing(
    install: InstallDistribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distribution that is required and not allowed is not imported, and its component is still rejected."""
    install("ni_odd", "open('imported', 'w')", {"body": {"odd": "ni_odd:Odd"}})
    monkeypatch.setenv("NI_PLUGINS", "")
    load_requiring("ni-odd", tmp_path, monkeypatch)
    with pytest.raises(PluginError, match="not allowed"):
        load_recipe("needy.yaml", ["model.body=odd"])
    assert not Path("imported").exists()
