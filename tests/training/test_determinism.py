"""The same recipe in two new processes, with different hash seeds of Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoint.test_resume import RANDOM_RUN_OVERRIDES, read_final_state
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

pytestmark = pytest.mark.slow


def test_two_processes_train_bit_identically(tmp_path: Path) -> None:
    """Weights, EMA, optimizer state, metrics and golden batch are bit-identical."""
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE_YAML)
    command = [
        sys.executable,
        "-c",
        "from ni_framework.cli import main; main()",
        "train",
        "small.yaml",
        *RANDOM_RUN_OVERRIDES,
        "train.batch=8",
    ]
    processes = [
        subprocess.Popen(
            [*command, "--output", name],
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for seed, name in enumerate(("one", "two"))
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, two = (read_final_state(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert len(one[0]) == 4
