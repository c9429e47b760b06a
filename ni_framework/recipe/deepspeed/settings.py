"""`engine.deepspeed`: those of DeepSpeed's own settings that a recipe may pass on, under DeepSpeed's own names.

A key that is not given is left to DeepSpeed. What it refuses stands in `deepspeed_refused.py`, what does not suit the
stage or another key in `rules.py`; `tests/recipe/test_deepspeed_keys.py` compares all with DeepSpeed itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import attrs

from ni_framework.options import config, option
from ni_framework.recipe.deepspeed import rejected as refused
from ni_framework.recipe.validate.fields import Passed, fields_of

FLOPS = "flops.txt"


@config
class OffloadOptimizer(Passed):
    """How the optimizer's state is kept where `engine.offload` puts it."""

    REFUSED = refused.OFFLOAD_OPTIMIZER

    pin_memory: bool | None = option(default=None, help="whether memory is page-locked, which is faster to copy")
    buffer_count: int | None = option(
        default=None, help="buffers between disk and memory; AdamW needs 4: weight, gradient and two moments", ge=4
    )
    pipeline_read: bool | None = option(default=None, help="whether the next tile is read while one is computed")
    pipeline_write: bool | None = option(default=None, help="whether the last tile is written while one is computed")
    fast_init: bool | None = option(default=None, help="whether the state on the disk is set up faster")


@config
class OffloadParam(Passed):
    """How weights are kept where `engine.offload` puts them."""

    REFUSED = refused.OFFLOAD_PARAM

    pin_memory: bool | None = option(default=None, help="whether memory is page-locked, which is faster to copy")
    buffer_count: int | None = option(default=None, help="buffers between disk and memory", ge=1)
    buffer_size: int | None = option(default=None, help="elements that such a buffer holds", ge=1)
    max_in_cpu: int | None = option(default=None, help="elements of weights kept in memory beside the disk", ge=0)


@config
class ZeroOptimization(Passed):
    """How what `engine.stage` divides is moved between processes."""

    REFUSED = refused.ZERO

    contiguous_gradients: bool | None = option(
        default=None, help="whether gradients are copied into one buffer as they are made"
    )
    reduce_scatter: bool | None = option(
        default=None, help="whether each process is sent its own part of the gradients alone"
    )
    reduce_bucket_size: int | None = option(
        default=None, help="elements of gradients that are averaged at a time", ge=1
    )
    use_multi_rank_bucket_allreduce: bool | None = option(
        default=None, help="whether the parts of all processes are averaged in one operation"
    )
    allgather_bucket_size: int | None = option(
        default=None, help="elements of weights that are gathered at a time; an even number", ge=2
    )
    overlap_comm: bool | None = option(default=None, help="whether gradients travel while others are computed")
    ignore_unused_parameters: bool | None = option(
        default=None, help="whether a weight without a gradient is let pass, with `offload`"
    )
    round_robin_gradients: bool | None = option(
        default=None, help="whether processes copy parts of the gradients to memory in turn"
    )
    parameter_alignment: bool | None = option(
        default=None, help="whether each weight starts at a multiple of 16 bytes; takes more memory"
    )
    offload_optimizer: OffloadOptimizer | None = option(default=None, help="how the optimizer's state is put elsewhere")
    offload_param: OffloadParam | None = option(default=None, help="how weights are put elsewhere")
    sub_group_size: int | None = option(default=None, help="elements of weights that a step updates at a time", ge=1)
    stage3_prefetch_bucket_size: int | None = option(
        default=None, help="elements of weights that are fetched before they are used", ge=0
    )
    stage3_param_persistence_threshold: int | None = option(
        default=None, help="weights of fewer elements are never divided", ge=0
    )
    stage3_model_persistence_threshold: int | None = option(
        default=None, help="elements that are not divided because of that, at most", ge=0
    )
    stage3_max_live_parameters: int | None = option(
        default=None, help="elements of weights that are whole at the same time, at most", ge=0
    )
    stage3_max_reuse_distance: int | None = option(
        default=None, help="weights that are used again within so many elements stay whole", ge=0
    )
    stage3_use_all_reduce_for_fetch_params: bool | None = option(
        default=None, help="whether weights are fetched by a sum, which takes less of the processor's time"
    )
    stage3_allgather_sequential: bool | None = option(
        default=None, help="whether weights are fetched one by one, which takes less memory"
    )
    zero_hpz_partition_size: int | None = option(
        default=None, help="processes that hold a second copy of the weights together: those of one machine", ge=1
    )
    zero_quantized_weights: bool | None = option(
        default=None, help="whether weights travel in 8 bits; needs GPUs and changes the numbers"
    )
    zero_quantized_gradients: bool | None = option(
        default=None, help="whether gradients travel in 4 bits; needs GPUs and changes the numbers"
    )
    memory_efficient_linear: bool | None = option(
        default=None, help="whether linear maps keep no weights for the way back"
    )
    log_trace_cache_warnings: bool | None = option(
        default=None, help="whether the log tells when weights come in another order than before"
    )
    enable_sanity_checks: bool | None = option(
        default=None, help="whether processes compare what they are about to exchange; slow"
    )


@config
class Aio(Passed):
    """How a disk is read and written, with `offload: nvme`."""

    block_size: int | None = option(default=None, help="bytes of a block", ge=1)
    queue_depth: int | None = option(default=None, help="blocks on their way at the same time", ge=1)
    intra_op_parallelism: int | None = option(default=None, help="threads that share a tensor", ge=1)
    single_submit: bool | None = option(default=None, help="whether blocks are handed over one by one")
    overlap_events: bool | None = option(default=None, help="whether blocks are handed over while others are awaited")
    use_gds: bool | None = option(default=None, help="whether the disk is read straight into a GPU")


@config
class CommsLogger(Passed):
    """A log of what processes send each other, for finding what is slow."""

    enabled: bool = option(help="whether there is one", example=True)
    verbose: bool | None = option(default=None, help="whether each operation is told when it is done")
    prof_all: bool | None = option(default=None, help="whether all operations are told")
    prof_ops: tuple[str, ...] | None = option(default=None, help="the operations that are, if not all")
    debug: bool | None = option(default=None, help="whether it is told who called them")


@config
class FlopsProfiler(Passed):
    """A count of one step's operations, module by module, in `flops.txt` in the run folder."""

    REFUSED = refused.FLOPS_PROFILER

    enabled: bool = option(help="whether there is one", example=True)
    profile_step: int | None = option(default=None, help="the step that is counted", ge=1)
    module_depth: int | None = option(default=None, help="levels of modules that are told; -1: all", ge=-1)
    top_modules: int | None = option(default=None, help="modules that are told at each level", ge=1)
    detailed: bool | None = option(default=None, help="whether all modules are told too")
    recompute_fwd_factor: float | None = option(default=None, help="forward passes that are computed again", ge=0)


@config
class Throughput(Passed):
    """DeepSpeed's own clock of samples per second."""

    enabled: bool | None = option(default=None, help="whether it runs")
    synchronized: bool | None = option(default=None, help="whether it waits for the GPU, to be exact")


@config
class Timers(Passed):
    """DeepSpeed's own clocks."""

    throughput: Throughput | None = option(default=None, help="samples per second")


# What belongs a level deeper is said to, wherever it is taken for a key of the top.
_DEEPER = dict.fromkeys(fields_of(ZeroOptimization), ("is a key of `zero_optimization`", "move it there"))


@config
class DeepSpeed(Passed):
    """DeepSpeed's own settings, under its own names."""

    REFUSED = _DEEPER | refused.TOP

    zero_optimization: ZeroOptimization | None = option(default=None, help="how what `stage` divides is moved")
    communication_data_type: Literal["fp32", "bf16", "fp16"] | None = option(
        default=None, help="number format in which gradients travel"
    )
    prescale_gradients: bool | None = option(
        default=None, help="whether gradients are divided before they are added up rather than after"
    )
    gradient_predivide_factor: float | None = option(
        default=None, help="what gradients are divided by before they are added up, the rest after", gt=0
    )
    wall_clock_breakdown: bool | None = option(
        default=None, help="whether the log tells the time of each part of a step"
    )
    memory_breakdown: bool | None = option(
        default=None, help="whether the log tells the memory after each part of a step"
    )
    dump_state: bool | None = option(default=None, help="whether the log begins with all that DeepSpeed holds")
    disable_python_gc: bool | None = option(
        default=None, help="whether Python's search for cycles is off, which is never awaited then"
    )
    comms_logger: CommsLogger | None = option(default=None, help="a log of what processes send each other")
    flops_profiler: FlopsProfiler | None = option(default=None, help="a count of one step's operations")
    timers: Timers | None = option(default=None, help="DeepSpeed's own clocks")
    aio: Aio | None = option(default=None, help="how a disk is read and written, with `offload: nvme`")


def given(deepspeed: DeepSpeed | None, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a recipe gives of DeepSpeed's settings, as DeepSpeed's own configuration; files go to the run's folder."""
    if deepspeed is None:
        return {}
    values = attrs.asdict(
        deepspeed,
        filter=lambda _, value: value is not None,
        value_serializer=lambda _, __, value: list(value) if isinstance(value, tuple) else value,
    )
    for name in ("comms_logger", "flops_profiler"):
        # DeepSpeed takes the mere presence of a `comms_logger` for `enabled: true`.
        if not values.get(name, {}).get("enabled"):
            values.pop(name, None)
    if "flops_profiler" in values:  # which writes to stdout if it is not told where
        values["flops_profiler"]["output_file"] = str(Path(folder, FLOPS))
    return values
