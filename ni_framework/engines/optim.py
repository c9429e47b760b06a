"""AdamW with the right groups, and the learning rate as a closed form of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ni_framework.errors import CheckpointError
from ni_framework.recipe.schema import Optimizer

MakeOptimizer = Callable[[nn.Module, Optimizer], torch.optim.Optimizer]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay pulls on a parameter: matrices called `weight` alone.

    So biases, norms, codes, signatures, bandwidths, CLS elements and tables of positions are left alone, whatever their
    shape.
    """
    shape = getattr(
        parameter, "ds_shape", parameter.shape
    )  # of one that DeepSpeed has divided, of which nothing may be here
    return len(shape) >= 2 and name.endswith("weight")


def adamw(model: nn.Module, optimizer: Optimizer) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in a decayed and an undecayed group."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[decays(name, parameter)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": optimizer.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=optimizer.lr,
        betas=optimizer.betas,
        fused=True,
    )


def state_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, by "<kind>/<parameter>": it does not hang on the order or the grouping of parameters."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{kind}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def load_state_by_name(model: nn.Module, optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Gives the optimizer what `state_by_name` returned; parameters that it knows nothing of start afresh.

    Raises `CheckpointError` for what belongs to no parameter, or does not fit it.
    """
    parameters = dict(model.named_parameters())
    for key, value in stored.items():
        kind, _, name = key.partition("/")
        parameter = parameters.get(name)
        if parameter is None or (value.shape != parameter.shape and value.ndim):
            raise CheckpointError(
                f"{key}: of shape {list(value.shape)} is no state of this model; use another checkpoint"
            )
        # A copy: a view of another's memory would be changed by the next step.
        optimizer.state[parameter][kind] = value.to(parameter.device, copy=True)
