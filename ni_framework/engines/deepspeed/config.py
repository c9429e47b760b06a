"""Translates a recipe into DeepSpeed's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ni_framework.engines.deepspeed.nvme_offload.folder import set_buffer_sizes
from ni_framework.errors import RecipeError
from ni_framework.recipe import Recipe
from ni_framework.recipe.deepspeed.settings import to_deepspeed_config

# Elements of a communication bucket; DeepSpeed's default of 500 million takes 2 GB in fp32.
_BUCKET_ELEMENTS = 50_000_000


def build_deepspeed_config(
    recipe: Recipe, world_size: int, micro_batches: int, output_dir: Path, swap_path: str | None = None
) -> dict[str, Any]:
    """Returns DeepSpeed's configuration for a recipe; the recipe's own settings under `engine.deepspeed` override ours.

    Args:
        recipe: The recipe.
        world_size: The number of ranks.
        micro_batches: The number of micro-batches of each rank.
        output_dir: The folder for files that the recipe's own settings request.
        swap_path: The folder for what `offload: nvme` keeps on a disk; None without it.
    """
    train, engine = recipe.train, recipe.engine
    zero_config: dict[str, Any] = {
        "stage": engine.stage,
        "reduce_bucket_size": _BUCKET_ELEMENTS,
        "allgather_bucket_size": _BUCKET_ELEMENTS,
    }
    if engine.stage == 3:
        # Scripts follow one another, and fetching the next one early would hold two of them in memory.
        zero_config |= {"stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0}
    if engine.offload != "none":
        offload_target = {"device": engine.offload} | ({"nvme_path": swap_path} if swap_path else {})
        zero_config["offload_optimizer"] = dict(offload_target)
        if engine.stage == 3:
            zero_config["offload_param"] = dict(offload_target)
    settings = {
        "train_batch_size": train.batch,
        "train_micro_batch_size_per_gpu": train.batch // (world_size * micro_batches),
        "gradient_accumulation_steps": micro_batches,
        # At stage 0 `clip_gradients` clips: there DeepSpeed fails on scalars.
        "gradient_clipping": (train.max_grad_norm or 0.0) if engine.stage else 0.0,
        "steps_per_print": 2**62,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero_config,
    }
    settings = _merge_config(settings, to_deepspeed_config(engine.deepspeed, output_dir))
    if swap_path:
        set_buffer_sizes(settings["zero_optimization"], recipe, world_size)
    return settings


def check_device(recipe: Recipe, device: torch.device) -> None:
    """Raises `RecipeError` for settings that need a GPU if this rank has none."""
    if recipe.engine.offload == "nvme" and device.type != "cuda":
        message = "a disk is for what does not fit into a GPU, and this machine has none"
        raise RecipeError([recipe.problem_at("engine.offload", message, "use `offload: none` or `offload: cpu`")])
    zero = recipe.engine.deepspeed and recipe.engine.deepspeed.zero_optimization
    for name in ("zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients"):
        if getattr(zero, name, None) and device.type != "cuda":
            path = f"engine.deepspeed.zero_optimization.{name}"
            raise RecipeError([recipe.problem_at(path, "needs a GPU, and this machine has none", "remove it")])


def _merge_config(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `overrides` on top, mapping by mapping."""
    merged = dict(base)
    for key, value in overrides.items():
        nested = merged.get(key)
        merged[key] = _merge_config(nested, value) if isinstance(nested, dict) and isinstance(value, Mapping) else value
    return merged
