"""Fixtures of the tests in this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_pytest() -> Callable[..., tuple[int, str]]:
    """Runs pytest in a folder, as the author of a plugin would, and returns its exit code and output."""

    def run(folder: Path, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return result.returncode, result.stdout + result.stderr

    return run
