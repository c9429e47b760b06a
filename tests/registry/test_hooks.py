"""Listeners: those that are installed hear every run, and none of them can end one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from ni_framework.contracts import hookimpl
from ni_framework.errors import PluginError, RunError
from ni_framework.registry.hooks import run_events
from ni_framework.training.train import train
from tests.helpers.distributions import Install
from tests.helpers.small_recipe import small_recipe

LISTENER = """
from ni_framework.contracts import hookimpl
class Listener:
    @hookimpl
    def METHOD: heard.append(step)
heard = []
listener = Listener()
"""
ENTRY = {"hooks": {"odd": "ni_odd:listener"}}
START = "left out: listener `odd` of ni-odd 0.1 (ni_odd:listener) "
SHAPE = "a listener implements methods of contracts.RunEvents, by the same names and arguments"
END = "; upgrade or repair it: pip install --upgrade ni-odd"

BROKEN = {
    "a misspelt hook": (
        LISTENER.replace("METHOD", "run_stop(self, step)"),
        "cannot listen: unknown hook 'run_stop' in plugin <ni_odd.Listener object at ",
        f">; {SHAPE}",
    ),
    "another argument": (
        LISTENER.replace("METHOD", "run_warning(self, stop)"),
        "cannot listen: Plugin '",
        "Argument(s) {'stop'} are declared in the hookimpl but can not be found in the hookspec; " + SHAPE,
    ),
    "no mark": (
        LISTENER.replace("@hookimpl", "").replace("METHOD", "run_warning(self, step)"),
        f"implements no event; {SHAPE}",
        ", marked with contracts.hookimpl",
    ),
    "a class": (
        LISTENER.replace("METHOD", "run_warning(self, step)").replace("Listener()", "Listener"),
        "is a class; name an object made of it",
        "",
    ),
    "an exit at import": ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3", ""),
    "an error at import": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero", ""),
    "no such object": ("", "cannot be imported: AttributeError: module 'ni_odd' has no attribute 'listener'", ""),
}


class Heard:
    """Listens to warnings and to the end."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.summary: Any = None

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.messages.append(message)

    @hookimpl
    def run_end(self, summary: Any) -> None:
        self.summary = summary


def trained(folder: Path) -> Heard:
    heard = Heard()
    train(small_recipe(folder, "train.steps=4"), folder / "run", listeners=[heard])
    return heard


def test_an_installed_listener_hears(install: Install) -> None:
    install("ni_odd", LISTENER.replace("METHOD", "run_warning(self, step)"), ENTRY)
    telling = run_events()
    telling.run_warning(step=7, message="")
    assert importlib.import_module("ni_odd").heard == [7]
    assert telling.faults == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_left_out(name: str, install: Install, tmp_path: Path) -> None:
    """With a warning that names it; the run goes on, and another listener hears it."""
    source, begin, end = BROKEN[name]
    install("ni_odd", source, ENTRY)
    good = LISTENER.replace("METHOD", "run_step(self, step)")
    install("ni_even", good, {"hooks": {"odd": "ni_even:listener"}})
    (message,) = trained(tmp_path).messages
    assert message.startswith(START + begin)
    assert message.endswith(end + END)
    assert importlib.import_module("ni_even").heard == [1, 2, 3, 4]


FAILING = {
    "an error": ("1 / 0", "ZeroDivisionError: division by zero"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "an error of the framework's": (
        "from ni_framework.errors import RunError; raise RunError('it is\\nfull')",
        "RunError: it is full",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_one_that_fails_is_left_out_from_then_on(name: str, install: Install, tmp_path: Path) -> None:
    """It is told once; the run is the one that it would have been."""
    statement, said = FAILING[name]
    source = LISTENER.replace(
        "METHOD: heard.append(step)", f"run_step(self, step):\n        heard.append(step); {statement}"
    )
    install("ni_odd", source, ENTRY)
    heard = trained(tmp_path)
    start = START.replace("left out", "left out from now on")
    assert heard.messages == [f"{start}failed at run_step: {said}{END}"]
    assert importlib.import_module("ni_odd").heard == [1]
    assert heard.summary["metrics"]["test/accuracy"] > 0


def test_what_one_does_to_its_numbers_is_nobody_elses(install: Install, tmp_path: Path) -> None:
    install("ni_odd", LISTENER.replace("METHOD: heard.append(step)", "run_end(self, summary): summary.clear()"), ENTRY)
    heard = trained(tmp_path)
    assert heard.messages == []
    assert heard.summary["metrics"]


def test_an_interruption_passes(install: Install) -> None:
    source = LISTENER.replace("heard.append(step)", "raise KeyboardInterrupt").replace(
        "METHOD", "run_warning(self, step)"
    )
    install("ni_odd", source, ENTRY)
    with pytest.raises(KeyboardInterrupt):
        run_events().run_warning(step=7, message="")


def test_one_that_is_not_allowed_is_not_imported(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("ni_odd", f"open({str(tmp_path / 'imported')!r}, 'w')", ENTRY)
    monkeypatch.setenv("NI_PLUGINS", "-ni-odd")
    assert run_events().faults == []
    assert not (tmp_path / "imported").exists()


class Misspelt:
    """Given by the caller, who is to know."""

    @hookimpl
    def run_stop(self, step: int) -> None: ...


class Full:
    """Given by the caller, and failing."""

    @hookimpl
    def run_log(self, step: int) -> None:
        raise RunError("the disk is full")


def test_one_that_is_given_raises() -> None:
    """At once, or with its own error."""
    with pytest.raises(PluginError) as caught:
        run_events(Misspelt())
    said = "error: a listener to run events is broken: unknown hook 'run_stop' in plugin <tests.registry.test_hooks."
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(f"\n  help: {SHAPE}")
    with pytest.raises(RunError, match="the disk is full"):
        run_events(Full()).run_log(step=1, metrics={})
