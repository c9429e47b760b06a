"""Builds a model for ZeRO stage 3: each module is sharded over the ranks as soon as it has its initial values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from ni_framework.engines.deepspeed.empty_parameters import empty_parameters_to_buffers
from ni_framework.engines.deepspeed.scalar_parameters import scalars_as_vectors
from ni_framework.errors import RunError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe


class ModelFactory(Protocol):
    """Builds the model of a recipe, and calls `on_module_initialized` with each module as soon as it has its values."""

    def __call__(
        self, recipe: Recipe, *, on_module_initialized: Callable[[nn.Module], object] | None = None
    ) -> Interpreter: ...


def build_sharded(
    deepspeed: Any, recipe: Recipe, settings: dict[str, Any], device: torch.device, build: ModelFactory = build_model
) -> Interpreter:
    """Builds a recipe's model in shards, so that no rank ever holds more than one module's weights in full.

    Args:
        deepspeed: The package, as `import_deepspeed` returns it.
        recipe: The recipe of the model.
        settings: DeepSpeed's configuration.
        device: The device of this rank, to which buffers are moved.
        build: Builds the model, as `build_model` does.

    Returns:
        The model, whose parameters are sharded over the ranks.
    """
    # One swapper for all modules: each new one would delete what the previous ones have written to the disk.
    swapper = None

    def shard_module(module: nn.Module) -> None:
        nonlocal swapper
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
        empty_parameters_to_buffers(module)
        if parameters := list(module.parameters(recurse=False)):
            with scalars_as_vectors(parameters):
                holder = _OwnParameters(parameters)
                swapper = deepspeed.zero.Init(holder, config_dict_or_path=settings, param_swapper=swapper).param_swapper

    return build(recipe, on_module_initialized=shard_module)


class _OwnParameters(nn.Module):
    """Holds a module's own parameters, without those of its submodules: `zero.Init` shards all parameters of a module."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.own = nn.ParameterList(parameters)


def require_script_local_parameters(model: Interpreter) -> None:
    """Raises `RunError` if a script shares a parameter with another module: it would be freed together with the script."""
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = ".".join(name.split(".")[: 2 if name.startswith("scripts.") else 1])
        first_owner = owners.setdefault(id(parameter), owner)
        if first_owner != owner:
            raise RunError(
                f"engine.stage: 3 shards the model script by script, and {name} belongs to {first_owner} too; "
                "use stage 2, or give each a parameter of its own"
            )
