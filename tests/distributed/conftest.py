"""Pools of ranks that the tests share, and a launcher that ends with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.testing.workers.pool import WorkerPool
from tests.helpers.launcher_process import LauncherProcess


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[WorkerPool]:
    with WorkerPool(2) as processes:
        yield processes


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[WorkerPool]:
    with WorkerPool(4) as processes:
        yield processes


@pytest.fixture
def launcher_process(tmp_path: Path) -> Iterator[LauncherProcess]:
    """A launcher, of which no process outlives the test."""
    launcher = LauncherProcess(tmp_path)
    yield launcher
    if launcher.started_at:
        launcher.close()
