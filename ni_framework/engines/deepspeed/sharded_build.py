"""DeepSpeed, imported without a word on stdout, and models spread over processes as they are built."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor, nn

from ni_framework.distributed.communicator import Team
from ni_framework.errors import RunError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe


class BuildModel(Protocol):
    """Makes the model of a recipe; `settle` is given each module as soon as it has its values."""

    def __call__(self, recipe: Recipe, *, settle: Callable[[nn.Module], object] | None = None) -> Interpreter: ...


def import_deepspeed(log: TextIO) -> Any:
    """The package; raises `RunError` with the line that installs it where it cannot be imported.

    What it says goes to `log`: stdout is for results. Nothing is compiled.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # Or it starts another program several times a step, to ask for the number of CPUs.
        os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    stdout, sys.stdout = sys.stdout, log  # its log takes what it finds
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepspeed
    except Exception as error:  # a broken one, or one for another torch, fails in any way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RunError(
            f"engine.use: zero needs deepspeed, which cannot be imported ({reason}); pip install --upgrade deepspeed"
        ) from error
    finally:
        sys.stdout = stdout
    # It calls functions of torch that torch would rather have called by newer names.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
        False  # or messages in shared memory are compiled for a minute
    )
    _log_to(log)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return deepspeed


def _log_to(log: TextIO) -> None:
    """Where DeepSpeed's log goes: all of it to a file, warnings to a terminal.

    Not by `setStream`, which flushes the one before, and that may be closed.
    """
    level = logging.WARNING if log is sys.stderr else logging.INFO
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(level)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(level)
            handler.stream = log


def device_of(team: Team) -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place, number = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= number:
        raise RunError(
            f"process {team.rank} is number {place} on this machine, counted from 0, and there are {number} GPUs; "
            "start as many processes here as there are GPUs"
        )
    device = torch.device("cuda", place)
    torch.cuda.set_device(device)
    return device


def spread(
    deepspeed: Any, recipe: Recipe, settings: dict[str, Any], device: torch.device, build: BuildModel = build_model
) -> Interpreter:
    """The model of a recipe, of which no process ever holds more than one module: each is divided once it has its values."""

    swapper = None  # one for all: each new one deletes what those before it have put on the disk

    def divide(module: nn.Module) -> None:
        nonlocal swapper
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
        without_empty(module)
        parameters = list(module.parameters(recurse=False))
        scalars = [parameter for parameter in parameters if not parameter.ndim]
        for parameter in scalars:
            parameter.data = parameter.data.view(1)  # DeepSpeed cannot send one without a dimension
        if parameters:
            own = _Own(parameters)
            swapper = deepspeed.zero.Init(own, config_dict_or_path=settings, param_swapper=swapper).param_swapper
        for parameter in scalars:
            parameter.ds_shape = torch.Size(())  # pyright: ignore[reportAttributeAccessIssue]

    return build(recipe, settle=divide)


def without_empty(module: nn.Module) -> None:
    """Has a module hold parameters without elements as buffers: DeepSpeed can neither send them nor their gradients."""
    for name, parameter in list(module._parameters.items()):
        if parameter is not None and not parameter.numel():
            del module._parameters[name]
            module.register_buffer(name, parameter.detach())


def check_apart(model: Interpreter) -> None:
    """Raises `RunError` for a parameter of a script that belongs elsewhere too: it would be taken away with the script."""
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        place = ".".join(name.split(".")[: 2 if name.startswith("scripts.") else 1])
        other = owners.setdefault(id(parameter), place)
        if other != place:
            raise RunError(
                f"engine.stage: 3 divides the model by scripts, and {name} belongs to {other} too; "
                "use stage 2, or give each a parameter of its own"
            )


class _Own(nn.Module):
    """A module's own parameters, without those of the modules in it."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.own = nn.ParameterList(parameters)


def differentiable(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Has a script begin with a state that has a gradient: at stage 3 DeepSpeed frees and reduces when one comes back."""
    x_BVD: Tensor = arguments[0]
    if x_BVD.requires_grad or not torch.is_grad_enabled():
        return None
    return x_BVD.detach().requires_grad_(), *arguments[1:]


def forget() -> None:
    """Clears what outlives a destroyed engine: modules, a cache on a method, torch's linear map, and where the log goes."""
    from deepspeed.runtime.zero import parameter_offload, partition_parameters, partitioned_param_coordinator

    replaced = partition_parameters.InsertPostInitMethodToModuleSubClasses
    torch.nn.functional.linear = getattr(replaced, "linear_bk", torch.nn.functional.linear)
    parameter_offload.FWD_MODULE_STACK.clear()
    coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
    for cell in vars(coordinator)["_PartitionedParameterCoordinator__params_to_release"].__closure__:
        if hasattr(cell.cell_contents, "cache_clear"):
            cell.cell_contents.cache_clear()
    _log_to(sys.stderr)
