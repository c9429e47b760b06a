"""Listeners to run events: installed listeners are called in every run, and cannot end a run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from ni_framework.contracts import hookimpl
from ni_framework.errors import PluginError, RunError
from ni_framework.registry.hooks import make_hook_runner
from ni_framework.training.train import train
from tests.helpers.distributions import InstallDistribution
from tests.helpers.small_recipe import load_small_recipe

LISTENER_SOURCE = """
from ni_framework.contracts import hookimpl
class Listener:
    @hookimpl
    def METHOD: steps.append(step)
steps = []
listener = Listener()
"""
LISTENER_ENTRY = {"hooks": {"odd": "ni_odd:listener"}}
SKIPPED_START = "skipped: listener `odd` of ni-odd 0.1 (ni_odd:listener) "
LISTENER_HINT = "a listener implements methods of contracts.RunEvents, with the same names and arguments"
SKIPPED_END = "; upgrade or repair it: pip install --upgrade ni-odd"

BROKEN_LISTENERS = {
    "a misspelt hook": (
        LISTENER_SOURCE.replace("METHOD", "run_stop(self, step)"),
        "is not a listener: unknown hook 'run_stop' in plugin <ni_odd.Listener object at ",
        f">; {LISTENER_HINT}",
    ),
    "another argument": (
        LISTENER_SOURCE.replace("METHOD", "run_warning(self, stop)"),
        "is not a listener: Plugin '",
        "Argument(s) {'stop'} are declared in the hookimpl but can not be found in the hookspec; " + LISTENER_HINT,
    ),
    "no mark": (
        LISTENER_SOURCE.replace("@hookimpl", "").replace("METHOD", "run_warning(self, step)"),
        f"implements no event; {LISTENER_HINT}",
        ", marked with contracts.hookimpl",
    ),
    "a class": (
        LISTENER_SOURCE.replace("METHOD", "run_warning(self, step)").replace("Listener()", "Listener"),
        "is a class; name an instance of it",
        "",
    ),
    "an exit at import": ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3", ""),
    "an error at import": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero", ""),
    "no such object": ("", "cannot be imported: AttributeError: module 'ni_odd' has no attribute 'listener'", ""),
}


class EventCollector:
    """Collects warnings and the summary of the run."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.summary: Any = None

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.messages.append(message)

    @hookimpl
    def run_end(self, summary: Any) -> None:
        self.summary = summary


def train_with_listener(folder: Path) -> EventCollector:
    collector = EventCollector()
    train(load_small_recipe(folder, "train.steps=4"), folder / "run", listeners=[collector])
    return collector


def test_an_installed_listener_is_called(install: InstallDistribution) -> None:
    install("ni_odd", LISTENER_SOURCE.replace("METHOD", "run_warning(self, step)"), LISTENER_ENTRY)
    runner = make_hook_runner()
    runner.run_warning(step=7, message="")
    assert importlib.import_module("ni_odd").steps == [7]
    assert runner.load_errors == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN_LISTENERS)
def test_a_broken_listener_is_skipped(name: str, install: InstallDistribution, tmp_path: Path) -> None:
    """A warning names it, the run continues, and other listeners are called."""
    source, begin, end = BROKEN_LISTENERS[name]
    install("ni_odd", source, LISTENER_ENTRY)
    good = LISTENER_SOURCE.replace("METHOD", "run_step(self, step)")
    install("ni_even", good, {"hooks": {"odd": "ni_even:listener"}})
    (message,) = train_with_listener(tmp_path).messages
    assert message.startswith(SKIPPED_START + begin)
    assert message.endswith(end + SKIPPED_END)
    assert importlib.import_module("ni_even").steps == [1, 2, 3, 4]


FAILING_LISTENERS = {
    "an error": ("1 / 0", "ZeroDivisionError: division by zero"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "an error of the framework's": (
        "from ni_framework.errors import RunError; raise RunError('it is\\nfull')",
        "RunError: it is full",
    ),
}


@pytest.mark.parametrize("name", FAILING_LISTENERS)
def test_a_listener_that_fails_is_not_called_again(name: str, install: InstallDistribution, tmp_path: Path) -> None:
    """There is one warning about it, and the run continues to its end."""
    statement, message = FAILING_LISTENERS[name]
    source = LISTENER_SOURCE.replace(
        "METHOD: steps.append(step)", f"run_step(self, step):\n        steps.append(step); {statement}"
    )
    install("ni_odd", source, LISTENER_ENTRY)
    collector = train_with_listener(tmp_path)
    start = SKIPPED_START.replace("skipped", "skipped from now on")
    assert collector.messages == [f"{start}failed at run_step: {message}{SKIPPED_END}"]
    assert importlib.import_module("ni_odd").steps == [1]
    assert collector.summary["metrics"]["test/accuracy"] > 0


def test_listeners_get_their_own_copy_of_metrics(install: InstallDistribution, tmp_path: Path) -> None:
    install(
        "ni_odd",
        LISTENER_SOURCE.replace("METHOD: steps.append(step)", "run_end(self, summary): summary.clear()"),
        LISTENER_ENTRY,
    )
    collector = train_with_listener(tmp_path)
    assert collector.messages == []
    assert collector.summary["metrics"]


def test_keyboard_interrupt_in_a_listener_is_not_caught(install: InstallDistribution) -> None:
    source = LISTENER_SOURCE.replace("steps.append(step)", "raise KeyboardInterrupt").replace(
        "METHOD", "run_warning(self, step)"
    )
    install("ni_odd", source, LISTENER_ENTRY)
    with pytest.raises(KeyboardInterrupt):
        make_hook_runner().run_warning(step=7, message="")


def test_a_listener_that_is_not_allowed_is_not_imported(
    install: InstallDistribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("ni_odd", f"open({str(tmp_path / 'imported')!r}, 'w')", LISTENER_ENTRY)
    monkeypatch.setenv("NI_PLUGINS", "-ni-odd")
    assert make_hook_runner().load_errors == []
    assert not (tmp_path / "imported").exists()


class MisspeltListener:
    """Implements a hook that does not exist."""

    @hookimpl
    def run_stop(self, step: int) -> None: ...


class FailingListener:
    """Raises an error in a hook."""

    @hookimpl
    def run_log(self, step: int) -> None:
        raise RunError("the disk is full")


def test_errors_of_a_listener_of_the_caller_are_raised() -> None:
    """An unknown hook when the runner is made, an error in a hook as it is."""
    with pytest.raises(PluginError) as caught:
        make_hook_runner(MisspeltListener())
    start = "error: a listener to run events is broken: unknown hook 'run_stop' in plugin <tests.registry.test_hooks."
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(f"\n  help: {LISTENER_HINT}")
    with pytest.raises(RunError, match="the disk is full"):
        make_hook_runner(FailingListener()).run_log(step=1, metrics={})
