"""The global state of a process that the import of a plugin must not change: torch's functions, global settings.

This protects against mistakes and not against attacks: a plugin that may be used is trusted code.
"""

from __future__ import annotations

import builtins
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

_TORCH = Path(torch.__file__).parent


def _namespaces() -> Iterator[tuple[str, Any]]:
    """The namespaces whose attributes are compared, each with the name that messages use."""
    yield from {
        "torch": torch,
        "torch.nn": torch.nn,
        "torch.nn.functional": torch.nn.functional,
        "torch.nn.init": torch.nn.init,
        "torch.linalg": torch.linalg,
        "torch.autograd": torch.autograd,
        "torch.optim": torch.optim,
        "torch.Tensor": torch.Tensor,
        "numpy": numpy,
        "numpy.random": numpy.random,
        "random": random,
        "builtins": builtins,
    }.items()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("ni_framework", "ni_standard"):
            yield name, module
    for module in (torch.nn, torch.optim):
        for name, value in vars(module).items():
            if inspect.isclass(value):
                yield f"{module.__name__}.{name}", value


# The name of each setting, the function that reads it (as a comparable value), and the function that restores it.
_SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], object]], ...] = (
    ("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    (
        "the default device",
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    ("the gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    (
        "whether algorithms are deterministic",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    ("the current folder", os.getcwd, os.chdir),
    ("the number of threads", torch.get_num_threads, torch.set_num_threads),
    (
        "the precision of float32 products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
)


class GlobalState:
    """A snapshot of the global state; `restore` returns to it."""

    def __init__(self) -> None:
        self._namespaces_before = [(name, space, dict(vars(space))) for name, space in _namespaces()]
        self._settings_before = [read() for _, read, _ in _SETTINGS]
        self._rng_states = torch.get_rng_state(), numpy.random.get_state(), random.getstate()

    def restore(self) -> list[str]:
        """Undoes all changes since the snapshot, and returns the names of what was changed.

        The states of the global random generators are restored silently: some widely used libraries draw random numbers while
        they are imported, and after the restoration this has no effect.
        """
        changed = []
        for (name, read, write), before in zip(_SETTINGS, self._settings_before, strict=True):
            if read() != before:
                write(before)
                changed.append(name)
        changed += sorted(name for before in self._namespaces_before for name in _restore_namespace(*before))
        torch.set_rng_state(self._rng_states[0])
        numpy.random.set_state(self._rng_states[1])
        random.setstate(self._rng_states[2])
        return list(dict.fromkeys(changed))


def _restore_namespace(name: str, space: Any, before: dict[str, Any]) -> Iterator[str]:
    """Restores attributes that were replaced or removed, and gives their names; added attributes are allowed.

    torch adds some of its attributes lazily, so only an added method that hides an inherited one counts as a change.
    """
    now = dict(vars(space))
    for key, value in before.items():
        if now.get(key, before) is not value and not _is_torch_wrapper(now.get(key), value):
            setattr(space, key, value)
            yield f"{name}.{key}"
    if inspect.isclass(space):
        for key in now.keys() - before.keys():
            inherited = any(key in vars(base) for base in space.__mro__[1:-1])
            if inherited and callable(now[key]) and not key.startswith("__annot"):
                delattr(space, key)
                yield f"{name}.{key}"


def _is_torch_wrapper(new: Any, old: Any) -> bool:
    """Whether torch has wrapped its own function, as it does with `manual_seed` when its compiler is first imported."""
    code = getattr(new, "__code__", None)
    return code is not None and getattr(new, "__wrapped__", None) is old and _TORCH in Path(code.co_filename).parents
