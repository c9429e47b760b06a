"""What tests of processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.crew import Crew


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """Whatever happens, none of its processes outlives the test."""
    made = Crew(tmp_path)
    yield made
    if made.begun:
        made.close()
