"""Fixtures of the fault injection tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.ni_runner import NiRunner


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NiRunner]:
    """Starts `ni` in a folder of its own."""
    runner = NiRunner(tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()
