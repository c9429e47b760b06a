"""Initial values that depend on the seed and a parameter's name alone: not on order, device, or number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ni_framework.errors import PluginError, Problem


def derive_seed(*key: int | str) -> int:
    """Returns a 63-bit seed for a key such as (seed, "model.scripts.0"): equal keys give equal seeds on any machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class SkipInit(TorchFunctionMode):
    """Skips torch's initialisers while a model is built on the meta device, where there are no values to set.

    On the meta device they run as Python code whose import takes longer than all other steps of building a model.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of torch, or returns the argument of an initialiser unchanged."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def initialise_model(
    model: nn.Module, seed: int, on_module_initialized: Callable[[nn.Module], object] | None = None
) -> None:
    """Allocates a model that was built on the meta device and sets its initial values.

    This happens on the CPU, because generators differ by device. Every module that owns parameters or buffers has a
    `reset_parameters`, as torch's own modules have. Each runs with a seed derived from the module's name; the state of the
    global generators does not change.

    Args:
        model: the model, with all parameters on the meta device.
        seed: the recipe's seed.
        on_module_initialized: called with each module after its values are set, so that they can be moved away before the
            next module is allocated.

    Raises:
        PluginError: a module has no `reset_parameters`, so that its parameters would be uninitialised memory.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name, module in model.named_modules():
            if not (module._parameters or module._buffers):
                continue
            reset = getattr(module, "reset_parameters", None)
            if reset is None:
                message = f"{type(module).__name__} ({name}) owns parameters or buffers but has no reset_parameters()"
                raise PluginError([Problem(message, hint="define it in the module; it alone sets initial values")])
            module.to_empty(device="cpu", recurse=False)
            torch.manual_seed(derive_seed(seed, name))
            reset()
            if on_module_initialized is not None:
                on_module_initialized(module)
