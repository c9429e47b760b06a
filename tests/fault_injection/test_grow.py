"""`ni grow` that is killed at any instant leaves the new run complete or absent, and the old one as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.cli.test_grow import contents
from tests.helpers.ni_runner import Ended, Runner, repeated

GROW = ("grow", "old", "--add", 1, "--tasks", "more:2", "-o", "new")


class Kept:
    """An old run, and what growth makes of it if nobody stops it."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.old, self.new = runner, runner.folder / "old", runner.folder / "new"
        assert runner("train", "small.yaml", "train.steps=2", "--output", "old").status == 0
        self.before = contents(self.old)
        counted = self.grow(how="EIO", count_to=str(runner.folder / "counted"))
        assert counted.status == 0, counted.err
        assert runner("verify", "new").status == 0
        self.operations = int((runner.folder / "counted").read_text())
        self.whole = contents(self.new)
        self.clear()
        begin = time.monotonic()
        assert self.grow().status == 0
        self.seconds = time.monotonic() - begin
        assert self.is_whole()
        self.clear()

    def grow(self, **request: object) -> Ended:
        return self.runner(*GROW, **request)  # pyright: ignore[reportArgumentType]

    def clear(self) -> None:
        """Takes the new run away, and what lies hidden beside it."""
        for place in (self.new, *self.runner.folder.glob(".new.*")):
            shutil.rmtree(place, ignore_errors=True)

    def is_whole(self) -> bool:
        """Whether there is a new run, which then is complete; the old one has to be what it was."""
        assert contents(self.old) == self.before
        if not self.new.exists():
            return False
        assert contents(self.new) == self.whole
        return True


@pytest.fixture(scope="module")
def kept(runner: Runner) -> Kept:
    return Kept(runner)


@repeated(300)
def test_killed_at_any_instant(kept: Kept, times: int) -> None:
    """Spread evenly over its run time; what a kill leaves is in nobody's way."""
    killed = 0
    for number in range(times):

        def kill(child: int, _: Path, after: float = kept.seconds * number / times) -> None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

        ended = kept.grow(meanwhile=kill)
        assert ended.status in (0, -signal.SIGKILL), ended.err
        killed += ended.status != 0
        if kept.is_whole():
            kept.clear()
        else:
            assert ended.status != 0
    assert killed >= times / 2
    assert kept.grow().status == 0
    assert kept.is_whole()
    assert not [*kept.runner.folder.glob(".new.*")]  # what kills have left is gone
    kept.clear()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_before_a_file_operation(kept: Kept, every: int) -> None:
    """The new run is there from one of them on, and never before; the last ones put it in its place."""
    whole = []
    for number in sorted({*range(1, kept.operations, every), kept.operations - 1, kept.operations}):
        ended = kept.grow(at=number, how="kill")
        assert ended.status == -signal.SIGKILL, ended.err
        whole.append(kept.is_whole())
        kept.clear()
    assert whole == sorted(whole)
    assert not whole[0]
