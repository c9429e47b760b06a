"""What a recipe requires of the environment, and the listeners that are installed in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.errors import PluginError, RecipeError
from ni_framework.registry import load_recipe
from ni_framework.registry.hooks import run_events

from .installing import Install

RECIPE = """ni: 1
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


def load(required: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("needy.yaml").write_text(RECIPE.replace("REQUIRED", required))
    load_recipe("needy.yaml")


def test_requirement_that_is_met(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("ni_odd", "", {}, version="0.3")
    load("ni-odd>=0.2, torch", tmp_path, monkeypatch)


def test_requirement_that_is_not_met(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent, and too old: both at once."""
    install("ni_odd", "", {}, version="0.1")
    with pytest.raises(PluginError) as caught:
        load("ni-odd>=0.2, ni-nobody", tmp_path, monkeypatch)
    assert str(caught.value) == (
        "needy.yaml:2:12: error: requires.0: ni-odd 0.1 does not meet ni-odd>=0.2\n"
        "    requires: [ni-odd>=0.2, ni-nobody]\n"
        "               ^\n"
        "  help: pip install 'ni-odd>=0.2'\n"
        "needy.yaml:2:25: error: requires.1: ni-nobody is not installed\n"
        "    requires: [ni-odd>=0.2, ni-nobody]\n"
        "                            ^\n"
        "  help: pip install ni-nobody"
    )


def test_requirement_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError) as caught:
        load('">>"', tmp_path, monkeypatch)
    assert str(caught.value).splitlines()[0] == (
        "needy.yaml:2:12: error: requires.0: must be a requirement such as 'ni-swirl>=0.1', not '>>'"
    )


LISTENER = """
from ni_framework.contracts import hookimpl
class Listener:
    @hookimpl
    def METHOD: heard.append(step)
heard = []
listener = Listener()
"""
ENTRY = {"hooks": {"odd": "ni_odd:listener"}}


def test_installed_listener_hears(install: Install) -> None:
    install("ni_odd", LISTENER.replace("METHOD", "run_warning(self, step)"), ENTRY)
    run_events().hook.run_warning(step=7, message="")
    import ni_odd  # pyright: ignore[reportMissingImports]

    assert ni_odd.heard == [7]


HELP = (
    "\n  help: a listener implements methods of contracts.RunEvents, by the same names and arguments; "
    "repair or uninstall it"
)
BROKEN = {
    "run_stop(self, step)": "unknown hook 'run_stop' in plugin <ni_odd.Listener object",
    "run_warning(self, stop)": "Plugin 'odd' for hook 'run_warning'",
}


@pytest.mark.parametrize("method", BROKEN)
def test_broken_listener(method: str, install: Install) -> None:
    install("ni_odd", LISTENER.replace("METHOD", method), ENTRY)
    with pytest.raises(PluginError) as caught:
        run_events()
    assert str(caught.value).startswith("error: a plugin for run events is broken: ")
    assert BROKEN[method] in str(caught.value)
    assert str(caught.value).endswith(HELP)


def test_listener_that_exits_at_import(install: Install) -> None:
    install("ni_odd", "import sys; sys.exit(3)", ENTRY)
    with pytest.raises(PluginError) as caught:
        run_events()
    assert str(caught.value) == f"error: a plugin for run events is broken: 3{HELP}"
