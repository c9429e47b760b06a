"""What tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.ni_runner import Runner


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Starts `ni` in a folder of its own."""
    runner = Runner(tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()
