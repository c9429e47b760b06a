"""Trains recipes by the command that users type, for the scripts beside this one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[2] / "recipes"
SEEDS = (0, 1, 2)


def trained(recipe: str, seed: int) -> dict[str, Any]:
    """The summary of `ni train RECIPE seed=SEED --json`; narration goes where this process's does."""
    ni = Path(sys.executable).with_name("ni")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(ni), "train", str(RECIPES / recipe), f"seed={seed}", "--output", f"{folder}/run", "--json"]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
