"""Trains recipes with the command `ni train`, for the other scripts of this folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[2] / "recipes"
DEFAULT_SEEDS = (0, 1, 2)


def train_recipe(recipe: str, seed: int) -> dict[str, Any]:
    """Returns the summary of `ni train RECIPE seed=SEED --json`; its progress goes to stderr."""
    ni = Path(sys.executable).with_name("ni")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(ni), "train", str(RECIPES / recipe), f"seed={seed}", "--output", f"{folder}/run", "--json"]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def seed_mean(values: list[float]) -> float:
    return sum(values) / len(values)
