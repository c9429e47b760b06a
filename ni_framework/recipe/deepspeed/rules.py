"""Which of DeepSpeed's settings suit the stage, what is put elsewhere, and each other.

Each rule is something that DeepSpeed asserts only after all processes have started, or quietly passes over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ni_framework.errors import OptionError
from ni_framework.recipe.deepspeed.settings import DeepSpeed, ZeroOptimization
from ni_framework.recipe.parsing.wording import either

_DIVIDED = (1, 2, 3)
_FLAT = (1, 2)
_WEIGHTS = (3,)

STAGES: Mapping[str, tuple[int, ...]] = {
    "contiguous_gradients": _DIVIDED,
    "reduce_scatter": _DIVIDED,
    "reduce_bucket_size": _DIVIDED,
    "overlap_comm": _DIVIDED,
    "offload_optimizer": _DIVIDED,
    "use_multi_rank_bucket_allreduce": _FLAT,
    "allgather_bucket_size": _FLAT,
    "ignore_unused_parameters": _FLAT,
    "round_robin_gradients": _FLAT,
    "parameter_alignment": _FLAT,
    "offload_param": _WEIGHTS,
    "sub_group_size": _WEIGHTS,
    "stage3_prefetch_bucket_size": _WEIGHTS,
    "stage3_param_persistence_threshold": _WEIGHTS,
    "stage3_model_persistence_threshold": _WEIGHTS,
    "stage3_max_live_parameters": _WEIGHTS,
    "stage3_max_reuse_distance": _WEIGHTS,
    "stage3_use_all_reduce_for_fetch_params": _WEIGHTS,
    "stage3_allgather_sequential": _WEIGHTS,
    "zero_hpz_partition_size": _WEIGHTS,
    "zero_quantized_weights": _WEIGHTS,
    "zero_quantized_gradients": _WEIGHTS,
    "memory_efficient_linear": _WEIGHTS,
    "log_trace_cache_warnings": _WEIGHTS,
    "enable_sanity_checks": _WEIGHTS,
}
"""The stages that read a key of `zero_optimization`; the others pass over it."""

DISK: Mapping[str, tuple[str, ...]] = {
    "offload_optimizer": ("buffer_count", "pipeline_read", "pipeline_write", "fast_init"),
    "offload_param": ("buffer_count", "buffer_size", "max_in_cpu"),
}
"""The keys that only a disk gives a meaning."""

_Fault = tuple[str, str, str]  # the key's path below `deepspeed`, what is wrong, and what to do
_LEAVE = "leave it out"


def misfits(deepspeed: DeepSpeed, stage: int, offload: str) -> list[OptionError]:
    """Everything that does not suit, as problems of `engine`."""
    found = [*_of_logs(deepspeed), *_of_disks(deepspeed, offload), *_of_averages(deepspeed, stage)]
    if zero := deepspeed.zero_optimization:
        inside = [*_of_stages(zero, stage), *_of_offload(zero, stage, offload), *_of_combinations(zero)]
        found += [(f"zero_optimization.{path}", message, hint) for path, message, hint in inside]
    return [OptionError(f"deepspeed.{path}", message, hint) for path, message, hint in found]


def _of_stages(zero: ZeroOptimization, stage: int) -> Iterator[_Fault]:
    for name, stages in STAGES.items():
        if getattr(zero, name) is not None and stage not in stages:
            yield name, f"is for stage {either(map(str, stages))}, and this is stage {stage}", "leave it out"


def _of_offload(zero: ZeroOptimization, stage: int, offload: str) -> Iterator[_Fault]:
    for name, keys in DISK.items():
        inside = getattr(zero, name)
        if inside is None or stage not in STAGES[name]:
            continue
        if offload == "none":
            yield name, "says how, and nothing is put elsewhere", "set `engine.offload`, or leave it out"
            continue
        for key in keys:
            if getattr(inside, key) is not None and offload != "nvme":
                yield f"{name}.{key}", "is for a disk", "use `offload: nvme`, or leave it out"
    if stage in (1, 2):
        if zero.contiguous_gradients is False and offload != "none":
            yield "contiguous_gradients", f"must be true in stage {stage} with `offload`, and is made so", _LEAVE
        if zero.ignore_unused_parameters is False and offload == "none":
            yield "ignore_unused_parameters", "is looked at with `offload` alone", _LEAVE


def _of_combinations(zero: ZeroOptimization) -> Iterator[_Fault]:
    if zero.allgather_bucket_size is not None and zero.allgather_bucket_size % 2:
        yield (
            "allgather_bucket_size",
            f"must be even, and {zero.allgather_bucket_size} is odd",
            f"use {zero.allgather_bucket_size + 1}",
        )
    if zero.use_multi_rank_bucket_allreduce is not None and zero.reduce_scatter is False:
        yield "use_multi_rank_bucket_allreduce", "is passed over with `reduce_scatter: false`", _LEAVE
    if zero.zero_quantized_gradients and zero.reduce_scatter is False:
        yield "zero_quantized_gradients", "needs `reduce_scatter: true`", "leave one of them out"
    if zero.stage3_allgather_sequential and zero.stage3_prefetch_bucket_size is not None:
        yield (
            "stage3_prefetch_bucket_size",
            "is passed over with `stage3_allgather_sequential`",
            "leave one of them out",
        )
    if zero.stage3_use_all_reduce_for_fetch_params:
        copied = (zero.zero_hpz_partition_size or 1) > 1
        for name, used in (
            ("zero_quantized_weights", zero.zero_quantized_weights),
            ("zero_hpz_partition_size", copied),
        ):
            if used:
                yield "stage3_use_all_reduce_for_fetch_params", f"is passed over with `{name}`", "leave one of them out"


def _of_averages(deepspeed: DeepSpeed, stage: int) -> Iterator[_Fault]:
    """Stages 1 to 3 average in ways of their own, which assert, ignore or even spoil these two."""
    zero = deepspeed.zero_optimization or ZeroOptimization()
    given = [
        name for name in ("prescale_gradients", "gradient_predivide_factor") if getattr(deepspeed, name) is not None
    ]
    for name in given:
        if stage == 3:
            yield name, "is not for stage 3, which always divides before it adds up", _LEAVE
        elif stage and (zero.reduce_scatter is not False or zero.contiguous_gradients is False):
            rest = "leave it out, or set `zero_optimization.reduce_scatter: false` and keep `contiguous_gradients`"
            yield name, f"is not done in stage {stage} while each process is sent its own part alone", rest
    if deepspeed.prescale_gradients and deepspeed.gradient_predivide_factor is not None:
        yield "gradient_predivide_factor", "is passed over with `prescale_gradients`", "leave one of them out"


def _of_disks(deepspeed: DeepSpeed, offload: str) -> Iterator[_Fault]:
    if deepspeed.aio is not None and offload != "nvme":
        yield "aio", "is for a disk", "use `offload: nvme`, or leave it out"


def _of_logs(deepspeed: DeepSpeed) -> Iterator[_Fault]:
    logger = deepspeed.comms_logger
    if logger is None:
        return
    if logger.enabled and not logger.verbose:
        yield "comms_logger", "tells nothing unless it tells each operation", "add `verbose: true`"
    if logger.prof_ops and logger.prof_all is not False:
        yield "comms_logger.prof_ops", "is passed over while all operations are told", "add `prof_all: false`"
