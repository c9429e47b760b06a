"""The same recipe in two fresh processes, whatever Python hashes by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.checkpoint.test_resume import OVERRIDES, left_behind
from tests.helpers.small_recipe import TEXT


def test_two_processes(tmp_path: Path) -> None:
    """Weights, averages, optimizer state, metrics and golden batch are equal to the last bit."""
    (tmp_path / "small.yaml").write_text(TEXT)
    command = [
        sys.executable,
        "-c",
        "from ni_framework.cli import main; main()",
        "train",
        "small.yaml",
        *OVERRIDES,
        "train.batch=8",
    ]
    running = [
        subprocess.Popen(
            [*command, "--output", name],
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for seed, name in enumerate(("one", "two"))
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    one, two = (left_behind(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert len(one[0]) == 4
