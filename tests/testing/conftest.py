"""Fixtures of this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_pytest() -> Callable[..., tuple[int, str]]:
    """Runs pytest in a folder, as a plugin's author would; its exit code and what it says."""

    def run(folder: Path, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run
