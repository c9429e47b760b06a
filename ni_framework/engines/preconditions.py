"""What a recipe needs so that an engine can train it here: an even split of the batch, a GPU for fp16, a C++ compiler."""

from __future__ import annotations

import os
import shutil

import torch

from ni_framework.errors import RecipeError, RunError
from ni_framework.recipe import Recipe


def micro_batches_per_rank(recipe: Recipe, world_size: int) -> int:
    """Returns the number of micro-batches of each rank, so that all ranks together have at least `train.micro_batches`.

    Raises `RecipeError` if the batch cannot be split evenly: the number of ranks must not change what a batch is.
    """
    batch, micro_batches = recipe.train.batch, recipe.train.micro_batches
    if number := _equal_micro_batches(batch, micro_batches, world_size):
        return number
    path = "train.micro_batches" if batch % world_size == 0 else "train.batch"
    valid_sizes = [str(number) for number in range(1, batch + 1) if _equal_micro_batches(batch, micro_batches, number)]
    listed_sizes = ", ".join(valid_sizes[:12])
    message = f"{world_size} processes cannot share a batch of {batch} in {micro_batches} micro-batches evenly"
    hint = f"use another batch size, or one of these numbers of processes: {listed_sizes}"
    raise RecipeError([recipe.problem_at(path, message, hint)])


def _equal_micro_batches(batch: int, micro_batches: int, world_size: int) -> int | None:
    """Returns the number of micro-batches of each rank; None if the batch cannot be split into equal ones."""
    number = max(micro_batches // world_size, 1)
    return number if (number * world_size) % micro_batches == 0 and batch % (number * world_size) == 0 else None


def check_precision(recipe: Recipe, device: torch.device) -> None:
    """Raises `RecipeError` for fp16 without a GPU: on a CPU it is slower than fp32, and many operations are missing."""
    if recipe.train.precision == "fp16" and device.type != "cuda":
        message = "fp16 needs a GPU, and this machine has none"
        raise RecipeError([recipe.problem_at("train.precision", message, "use bf16 or fp32")])


def check_compiler(device: torch.device) -> None:
    """Raises `RunError` if torch.compile would fail on the CPU because the machine has no C++ compiler."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if device.type == "cpu" and not any(map(shutil.which, names)):
        raise RunError(
            f"engine.compile: torch needs a C++ compiler, and there is no {' or '.join(names)} here; "
            "install one, or set engine.compile=false"
        )
