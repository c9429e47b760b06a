"""The large recipes where a GPU is at hand, and the small one anywhere: `tests/benchmarks/scale.py` measures them."""

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


def measured(*arguments: str) -> list[dict[str, Any]]:
    """What the script prints, in a process of its own."""
    script = [sys.executable, "tests/benchmarks/scale.py", *arguments]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(stages: list[dict[str, Any]], within: float) -> None:
    """All three stages learn, and alike."""
    assert [found["stage"] for found in stages] == [1, 2, 3]
    first = stages[0]["losses"]
    assert first[-1] < first[0]
    for found in stages:
        assert all(math.isfinite(loss) for loss in found["losses"])
        assert found["losses"] == pytest.approx(first, abs=within)


def test_small_recipe() -> None:
    stages = measured("recipes/scale/small.yaml", "train.optimizer.lr=1.0e-2")
    check(stages, 1e-5)
    assert {found["parameters"] for found in stages} == {34_749}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here, and 100 million parameters want one")
def test_a_hundred_million_parameters() -> None:
    stages = measured("recipes/scale/100m.yaml", "train.batch=128", "train.accumulate=4")
    check(stages, 0.05)
    for found in stages:
        print(found)
