"""The recipes of `tests/benchmarks/scale.py`: the small one everywhere, the large ones on a GPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run_scale_script(*arguments: str) -> list[dict[str, Any]]:
    """Runs the script in a process of its own; returns the documents that it prints."""
    script = [sys.executable, "tests/benchmarks/scale.py", *arguments]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_stages_agree(stages: list[dict[str, Any]], tolerance: float) -> None:
    """Asserts that all three stages learn, with the same losses up to `tolerance`."""
    assert [stage["stage"] for stage in stages] == [1, 2, 3]
    first = stages[0]["losses"]
    assert first[-1] < first[0]
    for stage in stages:
        assert all(math.isfinite(loss) for loss in stage["losses"])
        assert stage["losses"] == pytest.approx(first, abs=tolerance)


def test_stages_agree_on_the_small_recipe() -> None:
    stages = run_scale_script("recipes/scale/small.yaml", "train.optimizer.lr=1.0e-2")
    assert_stages_agree(stages, 1e-5)
    assert {stage["parameters"] for stage in stages} == {34_749}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="100 million parameters need a GPU")
def test_stages_agree_on_100_million_parameters() -> None:
    stages = run_scale_script("recipes/scale/100m.yaml", "train.batch=128", "train.micro_batches=4")
    assert_stages_agree(stages, 0.05)
    for stage in stages:
        print(stage)
