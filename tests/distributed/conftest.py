"""Process pools that tests here share, and workers of a launcher that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.testing.workers.pool import Processes
from tests.helpers.launcher_process import Crew


@pytest.fixture(scope="session")
def two() -> Iterator[Processes]:
    with Processes(2) as processes:
        yield processes


@pytest.fixture(scope="session")
def four() -> Iterator[Processes]:
    with Processes(4) as processes:
        yield processes


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """Whatever happens, none of its processes outlives the test."""
    made = Crew(tmp_path)
    yield made
    if made.begun:
        made.close()
