"""Initial values that depend on the seed and a parameter's name alone: not on order, device, or number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ni_framework.errors import PluginError, Problem


def seed_of(*key: int | str) -> int:
    """A 63-bit seed for a key such as (seed, "model.scripts.0"): equal keys, equal seeds, on any machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class WithoutValues(TorchFunctionMode):
    """Leaves out torch's initialisers while a model is built on the meta device, where they have nothing to set.

    There they are carried out by Python code whose import takes longer than all else that building a model needs.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of torch, or returns the tensor that an initialiser was given."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def initialise(model: nn.Module, seed: int, settle: Callable[[nn.Module], object] | None = None) -> None:
    """Gives a model built on the meta device real memory and its initial values, on the CPU: generators differ by device.

    Every module that owns parameters or buffers has a `reset_parameters`, as torch's own have; each runs under a seed
    of its own name, and the global generators are left as they were. `settle` is then given the module, to move its values
    away before the next one takes memory. Raises `PluginError` for a module without `reset_parameters`: its parameters would
    be whatever the memory held.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name, module in model.named_modules():
            if not (module._parameters or module._buffers):
                continue
            reset = getattr(module, "reset_parameters", None)
            if reset is None:
                message = f"{type(module).__name__} ({name}) owns parameters or buffers but has no reset_parameters()"
                raise PluginError(
                    [Problem(message, hint="define it where the module is; it alone sets initial values")]
                )
            module.to_empty(device="cpu", recurse=False)
            torch.manual_seed(seed_of(seed, name))
            reset()
            if settle is not None:
                settle(module)
