"""The rules between DeepSpeed's settings, the stage and the offloading.

DeepSpeed checks these only after all processes have started, or silently ignores a setting that has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ni_framework.errors import OptionError
from ni_framework.recipe.deepspeed.rejected import REMOVE_IT
from ni_framework.recipe.deepspeed.settings import DeepSpeed, ZeroOptimization
from ni_framework.recipe.parsing.wording import join_with_or

_STAGES_1_TO_3 = (1, 2, 3)
_STAGES_1_AND_2 = (1, 2)
_STAGE_3 = (3,)

STAGES_BY_KEY: Mapping[str, tuple[int, ...]] = {
    "contiguous_gradients": _STAGES_1_TO_3,
    "reduce_scatter": _STAGES_1_TO_3,
    "reduce_bucket_size": _STAGES_1_TO_3,
    "overlap_comm": _STAGES_1_TO_3,
    "offload_optimizer": _STAGES_1_TO_3,
    "use_multi_rank_bucket_allreduce": _STAGES_1_AND_2,
    "allgather_bucket_size": _STAGES_1_AND_2,
    "ignore_unused_parameters": _STAGES_1_AND_2,
    "round_robin_gradients": _STAGES_1_AND_2,
    "parameter_alignment": _STAGES_1_AND_2,
    "offload_param": _STAGE_3,
    "sub_group_size": _STAGE_3,
    "stage3_prefetch_bucket_size": _STAGE_3,
    "stage3_param_persistence_threshold": _STAGE_3,
    "stage3_model_persistence_threshold": _STAGE_3,
    "stage3_max_live_parameters": _STAGE_3,
    "stage3_max_reuse_distance": _STAGE_3,
    "stage3_use_all_reduce_for_fetch_params": _STAGE_3,
    "stage3_allgather_sequential": _STAGE_3,
    "zero_hpz_partition_size": _STAGE_3,
    "zero_quantized_weights": _STAGE_3,
    "zero_quantized_gradients": _STAGE_3,
    "memory_efficient_linear": _STAGE_3,
    "log_trace_cache_warnings": _STAGE_3,
    "enable_sanity_checks": _STAGE_3,
}
"""The stages that read a key of `zero_optimization`; the other stages ignore it."""

NVME_ONLY_KEYS: Mapping[str, tuple[str, ...]] = {
    "offload_optimizer": ("buffer_count", "pipeline_read", "pipeline_write", "fast_init"),
    "offload_param": ("buffer_count", "buffer_size", "max_in_cpu"),
}
"""The keys that have a meaning only for offloading to a disk."""

_Conflict = tuple[str, str, str]
"""The key path below `deepspeed` or `zero_optimization`, what is wrong, and what to do."""

_REMOVE_ONE = "remove one of them"
_NEEDS_NVME = "is only for offloading to a disk"
_USE_NVME = "use `offload: nvme`, or remove it"


def find_conflicts(deepspeed: DeepSpeed, stage: int, offload: str) -> list[OptionError]:
    """All conflicts between settings, as errors of `engine`.

    Args:
        deepspeed: The settings that the recipe gives.
        stage: ZeRO stage, 0 to 3.
        offload: "none", "cpu" or "nvme".
    """
    conflicts = [
        *_logger_conflicts(deepspeed),
        *_nvme_conflicts(deepspeed, offload),
        *_averaging_conflicts(deepspeed, stage),
    ]
    if zero := deepspeed.zero_optimization:
        zero_conflicts = [
            *_stage_conflicts(zero, stage),
            *_offload_conflicts(zero, stage, offload),
            *_combination_conflicts(zero),
        ]
        conflicts += [(f"zero_optimization.{path}", message, hint) for path, message, hint in zero_conflicts]
    return [OptionError(f"deepspeed.{path}", message, hint) for path, message, hint in conflicts]


def _stage_conflicts(zero: ZeroOptimization, stage: int) -> Iterator[_Conflict]:
    for name, stages in STAGES_BY_KEY.items():
        if getattr(zero, name) is not None and stage not in stages:
            yield name, f"is for stage {join_with_or(map(str, stages))}, and this is stage {stage}", REMOVE_IT


def _offload_conflicts(zero: ZeroOptimization, stage: int, offload: str) -> Iterator[_Conflict]:
    for name, keys in NVME_ONLY_KEYS.items():
        settings = getattr(zero, name)
        if settings is None or stage not in STAGES_BY_KEY[name]:
            continue
        if offload == "none":
            yield name, "has no effect without offloading", "set `engine.offload`, or remove it"
            continue
        for key in keys:
            if getattr(settings, key) is not None and offload != "nvme":
                yield f"{name}.{key}", _NEEDS_NVME, _USE_NVME
    if stage in (1, 2):
        if zero.contiguous_gradients is False and offload != "none":
            yield "contiguous_gradients", f"must be true in stage {stage} with `offload`, and is set to true", REMOVE_IT
        if zero.ignore_unused_parameters is False and offload == "none":
            yield "ignore_unused_parameters", "is only read with `offload`", REMOVE_IT


def _combination_conflicts(zero: ZeroOptimization) -> Iterator[_Conflict]:
    if zero.allgather_bucket_size is not None and zero.allgather_bucket_size % 2:
        yield (
            "allgather_bucket_size",
            f"must be even, which {zero.allgather_bucket_size} is not",
            f"use {zero.allgather_bucket_size + 1}",
        )
    if zero.use_multi_rank_bucket_allreduce is not None and zero.reduce_scatter is False:
        yield "use_multi_rank_bucket_allreduce", "is ignored with `reduce_scatter: false`", REMOVE_IT
    if zero.zero_quantized_gradients and zero.reduce_scatter is False:
        yield "zero_quantized_gradients", "needs `reduce_scatter: true`", _REMOVE_ONE
    if zero.stage3_allgather_sequential and zero.stage3_prefetch_bucket_size is not None:
        yield "stage3_prefetch_bucket_size", "is ignored with `stage3_allgather_sequential`", _REMOVE_ONE
    if zero.stage3_use_all_reduce_for_fetch_params:
        has_second_copy = (zero.zero_hpz_partition_size or 1) > 1
        for name, is_used in (
            ("zero_quantized_weights", zero.zero_quantized_weights),
            ("zero_hpz_partition_size", has_second_copy),
        ):
            if is_used:
                yield "stage3_use_all_reduce_for_fetch_params", f"is ignored with `{name}`", _REMOVE_ONE


def _averaging_conflicts(deepspeed: DeepSpeed, stage: int) -> Iterator[_Conflict]:
    """Conflicts of the two keys for averaging: with stages 1 to 3 DeepSpeed rejects them, ignores them or averages wrongly."""
    zero = deepspeed.zero_optimization or ZeroOptimization()
    for name in ("prescale_gradients", "gradient_predivide_factor"):
        if getattr(deepspeed, name) is None:
            continue
        if stage == 3:
            yield name, "is not for stage 3, which always divides before it sums", REMOVE_IT
        elif stage and (zero.reduce_scatter is not False or zero.contiguous_gradients is False):
            hint = "remove it, or set `zero_optimization.reduce_scatter: false` and keep `contiguous_gradients`"
            yield name, f"has no effect in stage {stage} while each process receives only its own shard", hint
    if deepspeed.prescale_gradients and deepspeed.gradient_predivide_factor is not None:
        yield "gradient_predivide_factor", "is ignored with `prescale_gradients`", _REMOVE_ONE


def _nvme_conflicts(deepspeed: DeepSpeed, offload: str) -> Iterator[_Conflict]:
    if deepspeed.aio is not None and offload != "nvme":
        yield "aio", _NEEDS_NVME, _USE_NVME


def _logger_conflicts(deepspeed: DeepSpeed) -> Iterator[_Conflict]:
    logger = deepspeed.comms_logger
    if logger is None:
        return
    if logger.enabled and not logger.verbose:
        yield "comms_logger", "logs nothing unless it logs each operation", "add `verbose: true`"
    if logger.prof_ops and logger.prof_all is not False:
        yield "comms_logger.prof_ops", "is ignored while all operations are logged", "add `prof_all: false`"
