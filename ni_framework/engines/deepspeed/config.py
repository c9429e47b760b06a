"""A recipe's settings as DeepSpeed's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ni_framework.engines.deepspeed.nvme import size_buffers
from ni_framework.errors import RecipeError
from ni_framework.recipe import Recipe
from ni_framework.recipe.deepspeed.settings import given

_BUCKET = 50_000_000  # elements; DeepSpeed's own 500 million take 2 GB in fp32


def settings_of(recipe: Recipe, size: int, parts: int, folder: Path, disk: str | None = None) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe in `size` processes, each of which computes `parts` parts of a batch.

    What the recipe gives under `engine.deepspeed` is laid over it; files that it asks for go to `folder`, and what
    `offload: nvme` puts on a disk to the folder `disk`.
    """
    train, engine = recipe.train, recipe.engine
    zero: dict[str, Any] = {
        "stage": engine.stage,
        "reduce_bucket_size": _BUCKET,
        "allgather_bucket_size": _BUCKET,
    }
    if engine.stage == 3:
        # Scripts follow one another, and fetching the next one early would hold two of them in memory.
        zero |= {"stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0}
    if engine.offload != "none":
        where = {"device": engine.offload} | ({"nvme_path": disk} if disk else {})
        zero["offload_optimizer"] = dict(where)
        if engine.stage == 3:
            zero["offload_param"] = dict(where)
    settings = {
        "train_batch_size": train.batch,
        "train_micro_batch_size_per_gpu": train.batch // (size * parts),
        "gradient_accumulation_steps": parts,
        "gradient_clipping": train.clip or 0.0
        if engine.stage
        else 0.0,  # stage 0 is clipped by us: it fails on scalars
        "steps_per_print": 2**62,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    settings = _over(settings, given(engine.deepspeed, folder))
    if disk:
        size_buffers(settings["zero_optimization"], recipe, size)
    return settings


def check_device(recipe: Recipe, device: torch.device) -> None:
    """Raises `RecipeError` for settings that need a GPU where there is none."""
    if recipe.engine.offload == "nvme" and device.type != "cuda":
        message = "a disk is for what does not fit into a GPU, and there is none here"
        raise RecipeError([recipe.problem("engine.offload", message, "use `offload: none` or `offload: cpu`")])
    zero = recipe.engine.deepspeed and recipe.engine.deepspeed.zero_optimization
    for name in ("zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients"):
        if getattr(zero, name, None) and device.type != "cuda":
            path = f"engine.deepspeed.zero_optimization.{name}"
            raise RecipeError([recipe.problem(path, "is done by a GPU, and there is none here", "leave it out")])


def _over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inside = merged.get(key)
        merged[key] = _over(inside, value) if isinstance(inside, dict) and isinstance(value, Mapping) else value
    return merged
