"""Workaround: DeepSpeed (0.19.8) leaves global state behind when an engine is destroyed.

What DeepSpeed does: at stage 3 it replaces `torch.nn.functional.linear` for the whole process, keeps the modules of a forward
pass on a global stack, caches a method's results with the objects that they belong to, and logs to the stream it was given.
What goes wrong: later models of this process compute with DeepSpeed's linear map, the memory of a destroyed model is never
freed, and the log goes to a closed file. How this repairs it: `reset_deepspeed_globals` restores or clears each of them.
"""

from __future__ import annotations

import sys

import torch

from ni_framework.engines.deepspeed.setup import redirect_deepspeed_log


def reset_deepspeed_globals() -> None:
    """Restores `torch.nn.functional.linear`, clears the module stack and the cache, and makes DeepSpeed log to stderr."""
    from deepspeed.runtime.zero import parameter_offload, partition_parameters, partitioned_param_coordinator

    patched = partition_parameters.InsertPostInitMethodToModuleSubClasses
    torch.nn.functional.linear = getattr(patched, "linear_bk", torch.nn.functional.linear)
    parameter_offload.FWD_MODULE_STACK.clear()
    coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
    # The cached method is wrapped in another decorator; its closure holds the function with the cache.
    for cell in vars(coordinator)["_PartitionedParameterCoordinator__params_to_release"].__closure__:
        if hasattr(cell.cell_contents, "cache_clear"):
            cell.cell_contents.cache_clear()
    redirect_deepspeed_log(sys.stderr)
