"""AdamW with weight decay on matrices alone, and its state by the names of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ni_framework.errors import CheckpointError
from ni_framework.recipe.schema import OptimizerConfig

OptimizerFactory = Callable[[nn.Module, OptimizerConfig], torch.optim.Optimizer]


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Returns whether weight decay applies to a parameter: only to matrices called `weight`.

    So it does not apply to biases, norms, codes, signatures, bandwidths, CLS elements and tables of positions, whatever
    their shape.
    """
    # A parameter that DeepSpeed has sharded may be empty on this rank; `ds_shape` is its full shape.
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return len(shape) >= 2 and name.endswith("weight")


def build_adamw(model: nn.Module, optimizer: OptimizerConfig) -> torch.optim.AdamW:
    """Returns AdamW over the trainable parameters, in a group with weight decay and one without."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[has_weight_decay(name, parameter)].append(parameter)
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
    """Returns the optimizer state by "<kind>/<parameter>", independent of the order and the groups of parameters."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{kind}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def load_state_by_name(model: nn.Module, optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Loads an optimizer state that `state_by_name` returned; parameters that it has no entry for start without a state.

    Args:
        model: The model that the optimizer trains.
        optimizer: The optimizer whose state is set.
        stored: The state by "<kind>/<parameter>"; kind is "exp_avg", for example.

    Raises:
        CheckpointError: An entry belongs to no parameter of the model, or has another shape.
    """
    parameters = dict(model.named_parameters())
    for key, value in stored.items():
        kind, _, name = key.partition("/")
        parameter = parameters.get(name)
        if parameter is None or (value.shape != parameter.shape and value.ndim):
            message = f"{key}: an optimizer state of shape {list(value.shape)} does not fit this model"
            raise CheckpointError(f"{message}; use another checkpoint")
        # A copy, since the next step would also change the memory that `stored` shares with others.
        optimizer.state[parameter][kind] = value.to(parameter.device, copy=True)
