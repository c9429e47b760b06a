"""`ni grow` that is killed at any instant leaves the new run complete or absent, and the old run unchanged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.cli.test_grow import read_all_files
from tests.helpers.ni_runner import NiRunner, RunResult, repeat

GROW_COMMAND = ("grow", "old", "--add", 1, "--tasks", "more:2", "-o", "new")


class GrowthScenario:
    """An old run, and the new run that `ni grow` makes of it if it is not killed."""

    def __init__(self, runner: NiRunner) -> None:
        self.runner, self.old, self.new = runner, runner.folder / "old", runner.folder / "new"
        assert runner("train", "small.yaml", "train.steps=2", "--output", "old").status == 0
        self.before = read_all_files(self.old)
        result = self.grow(how="EIO", count_to=str(runner.folder / "counted"))
        assert result.status == 0, result.err
        assert runner("verify", "new").status == 0
        self.operations = int((runner.folder / "counted").read_text())
        self.expected = read_all_files(self.new)
        self.remove_new_run()
        start = time.monotonic()
        assert self.grow().status == 0
        self.seconds = time.monotonic() - start
        assert self.is_complete()
        self.remove_new_run()

    def grow(self, **request: object) -> RunResult:
        return self.runner(*GROW_COMMAND, **request)  # pyright: ignore[reportArgumentType]

    def remove_new_run(self) -> None:
        """Removes the new run and its hidden staging folders."""
        for path in (self.new, *self.runner.folder.glob(".new.*")):
            shutil.rmtree(path, ignore_errors=True)

    def is_complete(self) -> bool:
        """Returns whether there is a new run, and asserts that it is complete and the old one is unchanged."""
        assert read_all_files(self.old) == self.before
        if not self.new.exists():
            return False
        assert read_all_files(self.new) == self.expected
        return True


@pytest.fixture(scope="module")
def growth_scenario(runner: NiRunner) -> GrowthScenario:
    return GrowthScenario(runner)


@repeat(300)
def test_killed_at_any_instant(growth_scenario: GrowthScenario, times: int) -> None:
    """At instants that are evenly spread over its run time; remains of a kill do not disturb the next attempt."""
    killed = 0
    for number in range(times):

        def kill(child: int, _: Path, after: float = growth_scenario.seconds * number / times) -> None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

        result = growth_scenario.grow(meanwhile=kill)
        assert result.status in (0, -signal.SIGKILL), result.err
        killed += result.status != 0
        if growth_scenario.is_complete():
            growth_scenario.remove_new_run()
        else:
            assert result.status != 0
    assert killed >= times / 2
    assert growth_scenario.grow().status == 0
    assert growth_scenario.is_complete()
    assert not [*growth_scenario.runner.folder.glob(".new.*")], "staging folders of killed attempts are left"
    growth_scenario.remove_new_run()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_before_a_file_operation(growth_scenario: GrowthScenario, every: int) -> None:
    """The new run is complete from one of the last operations on, and absent before."""
    complete = []
    for number in sorted(
        {*range(1, growth_scenario.operations, every), growth_scenario.operations - 1, growth_scenario.operations}
    ):
        result = growth_scenario.grow(at=number, how="kill")
        assert result.status == -signal.SIGKILL, result.err
        complete.append(growth_scenario.is_complete())
        growth_scenario.remove_new_run()
    assert complete == sorted(complete)
    assert not complete[0]
