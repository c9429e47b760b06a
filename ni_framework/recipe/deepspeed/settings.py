"""`engine.deepspeed`: DeepSpeed's own settings that a recipe can pass on, under DeepSpeed's own names.

A key that the recipe does not give keeps DeepSpeed's default. Keys that are not accepted are listed in `rejected.py`,
conflicts with the stage or with other keys in `rules.py`. `tests/recipe/test_deepspeed_keys.py` compares all of them with
DeepSpeed itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import attrs

from ni_framework.options import config, option
from ni_framework.recipe.deepspeed import rejected
from ni_framework.recipe.validate.fields import PassThroughConfig, fields_of

FLOPS_FILE = "flops.txt"


@config
class OffloadOptimizer(PassThroughConfig):
    """How the optimizer state is stored where `engine.offload` puts it."""

    REJECTED = rejected.REJECTED_OFFLOAD_OPTIMIZER

    pin_memory: bool | None = option(default=None, help="whether memory is page-locked, which is faster to copy")
    buffer_count: int | None = option(
        default=None, help="buffers between disk and memory; AdamW needs 4: weight, gradient and two moments", ge=4
    )
    pipeline_read: bool | None = option(default=None, help="whether the next tile is read while one is updated")
    pipeline_write: bool | None = option(default=None, help="whether the last tile is written while one is updated")
    fast_init: bool | None = option(default=None, help="whether the state on the disk is set up faster")


@config
class OffloadParam(PassThroughConfig):
    """How weights are stored where `engine.offload` puts them."""

    REJECTED = rejected.REJECTED_OFFLOAD_PARAM

    pin_memory: bool | None = option(default=None, help="whether memory is page-locked, which is faster to copy")
    buffer_count: int | None = option(default=None, help="buffers between disk and memory", ge=1)
    buffer_size: int | None = option(default=None, help="elements of each buffer", ge=1)
    max_in_cpu: int | None = option(default=None, help="elements of weights that stay in memory", ge=0)


@config
class ZeroOptimization(PassThroughConfig):
    """How shards are communicated between processes (`engine.stage`)."""

    REJECTED = rejected.REJECTED_ZERO

    contiguous_gradients: bool | None = option(
        default=None, help="whether gradients are copied into one buffer as they are computed"
    )
    reduce_scatter: bool | None = option(
        default=None, help="whether each process receives only its own shard of the gradients"
    )
    reduce_bucket_size: int | None = option(default=None, help="elements of gradients that are reduced at a time", ge=1)
    use_multi_rank_bucket_allreduce: bool | None = option(
        default=None, help="whether the shards of all processes are reduced in one operation"
    )
    allgather_bucket_size: int | None = option(
        default=None, help="elements of weights that are gathered at a time; an even number", ge=2
    )
    overlap_comm: bool | None = option(
        default=None, help="whether gradients are communicated while others are computed"
    )
    ignore_unused_parameters: bool | None = option(
        default=None, help="whether a weight without a gradient is accepted, with `offload`"
    )
    round_robin_gradients: bool | None = option(
        default=None, help="whether processes copy gradients to memory in round-robin order"
    )
    parameter_alignment: bool | None = option(
        default=None, help="whether each weight starts at a multiple of 16 bytes; takes more memory"
    )
    offload_optimizer: OffloadOptimizer | None = option(default=None, help="how the optimizer state is offloaded")
    offload_param: OffloadParam | None = option(default=None, help="how weights are offloaded")
    sub_group_size: int | None = option(default=None, help="elements of weights that a step updates at a time", ge=1)
    stage3_prefetch_bucket_size: int | None = option(
        default=None, help="elements of weights that are gathered before they are used", ge=0
    )
    stage3_param_persistence_threshold: int | None = option(
        default=None, help="weights with fewer elements are not sharded", ge=0
    )
    stage3_model_persistence_threshold: int | None = option(
        default=None, help="largest number of elements that are not sharded for that reason", ge=0
    )
    stage3_max_live_parameters: int | None = option(
        default=None, help="largest number of elements of weights that are gathered at the same time", ge=0
    )
    stage3_max_reuse_distance: int | None = option(
        default=None, help="weights that are used again within so many elements stay gathered", ge=0
    )
    stage3_use_all_reduce_for_fetch_params: bool | None = option(
        default=None, help="whether weights are gathered by an all-reduce, which takes less CPU time"
    )
    stage3_allgather_sequential: bool | None = option(
        default=None, help="whether weights are gathered one by one, which takes less memory"
    )
    zero_hpz_partition_size: int | None = option(
        default=None, help="processes that store a second copy of the weights together: those of one machine", ge=1
    )
    zero_quantized_weights: bool | None = option(
        default=None, help="whether weights are communicated in 8 bits; needs GPUs and changes the results"
    )
    zero_quantized_gradients: bool | None = option(
        default=None, help="whether gradients are communicated in 4 bits; needs GPUs and changes the results"
    )
    memory_efficient_linear: bool | None = option(
        default=None, help="whether linear layers save no weights for the backward pass"
    )
    log_trace_cache_warnings: bool | None = option(
        default=None, help="whether the log reports weights that are used in a different order than before"
    )
    enable_sanity_checks: bool | None = option(
        default=None, help="whether processes compare what they are about to communicate; slow"
    )


@config
class Aio(PassThroughConfig):
    """How a disk is read and written, with `offload: nvme`."""

    block_size: int | None = option(default=None, help="bytes of a block", ge=1)
    queue_depth: int | None = option(default=None, help="blocks that are read or written at the same time", ge=1)
    intra_op_parallelism: int | None = option(default=None, help="threads for one tensor", ge=1)
    single_submit: bool | None = option(default=None, help="whether blocks are submitted one by one")
    overlap_events: bool | None = option(
        default=None, help="whether blocks are submitted while others are still in progress"
    )
    use_gds: bool | None = option(default=None, help="whether the disk is read directly into a GPU (GPUDirect Storage)")


@config
class CommsLogger(PassThroughConfig):
    """A log of the communication between processes, for finding what is slow."""

    enabled: bool = option(help="whether there is one", example=True)
    verbose: bool | None = option(default=None, help="whether each operation is logged when it is done")
    prof_all: bool | None = option(default=None, help="whether all operations are logged")
    prof_ops: tuple[str, ...] | None = option(default=None, help="the operations that are logged, if not all")
    debug: bool | None = option(default=None, help="whether the caller of each operation is logged")


@config
class FlopsProfiler(PassThroughConfig):
    """A count of the FLOPs of one step, by module, in `flops.txt` in the run folder."""

    REJECTED = rejected.REJECTED_FLOPS_PROFILER

    enabled: bool = option(help="whether there is one", example=True)
    profile_step: int | None = option(default=None, help="the step that is counted", ge=1)
    module_depth: int | None = option(default=None, help="levels of modules that are listed; -1: all", ge=-1)
    top_modules: int | None = option(default=None, help="modules that are listed at each level", ge=1)
    detailed: bool | None = option(default=None, help="whether each module is listed too")
    recompute_fwd_factor: float | None = option(
        default=None, help="fraction of the forward pass that is computed again in the backward pass", ge=0
    )


@config
class Throughput(PassThroughConfig):
    """DeepSpeed's own measurement of samples per second."""

    enabled: bool | None = option(default=None, help="whether it is on")
    synchronized: bool | None = option(default=None, help="whether it waits for the GPU, to be exact")


@config
class Timers(PassThroughConfig):
    """DeepSpeed's own timers."""

    throughput: Throughput | None = option(default=None, help="samples per second")


# A key of `zero_optimization` that is given one level too high is reported as misplaced.
_MISPLACED_KEYS = dict.fromkeys(fields_of(ZeroOptimization), ("is a key of `zero_optimization`", "move it there"))


@config
class DeepSpeed(PassThroughConfig):
    """DeepSpeed's own settings, under its own names."""

    REJECTED = _MISPLACED_KEYS | rejected.REJECTED_TOP_LEVEL

    zero_optimization: ZeroOptimization | None = option(default=None, help="how shards are communicated")
    communication_data_type: Literal["fp32", "bf16", "fp16"] | None = option(
        default=None, help="number format in which gradients are communicated"
    )
    prescale_gradients: bool | None = option(
        default=None, help="whether gradients are divided before they are summed rather than after"
    )
    gradient_predivide_factor: float | None = option(
        default=None, help="divisor of gradients before they are summed; the rest of the division follows after", gt=0
    )
    wall_clock_breakdown: bool | None = option(
        default=None, help="whether the log shows the time of each part of a step"
    )
    memory_breakdown: bool | None = option(
        default=None, help="whether the log shows the memory after each part of a step"
    )
    dump_state: bool | None = option(default=None, help="whether the log begins with the state of the DeepSpeed engine")
    disable_python_gc: bool | None = option(
        default=None, help="whether Python's cyclic garbage collection is off, so that no step waits for it"
    )
    comms_logger: CommsLogger | None = option(default=None, help="a log of the communication between processes")
    flops_profiler: FlopsProfiler | None = option(default=None, help="a count of the FLOPs of one step")
    timers: Timers | None = option(default=None, help="DeepSpeed's own timers")
    aio: Aio | None = option(default=None, help="how a disk is read and written, with `offload: nvme`")


def to_deepspeed_config(deepspeed: DeepSpeed | None, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a recipe as DeepSpeed's own configuration; files are written to `folder`, the run folder."""
    if deepspeed is None:
        return {}
    values = attrs.asdict(
        deepspeed,
        filter=lambda _, value: value is not None,
        value_serializer=lambda _, __, value: list(value) if isinstance(value, tuple) else value,
    )
    for name in ("comms_logger", "flops_profiler"):
        # DeepSpeed treats the presence of a `comms_logger` as `enabled: true`.
        if not values.get(name, {}).get("enabled"):
            values.pop(name, None)
    if "flops_profiler" in values:
        # Without a file it writes to stdout.
        values["flops_profiler"]["output_file"] = str(Path(folder, FLOPS_FILE))
    return values
