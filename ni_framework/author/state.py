"""The author's state dict into a model whose tensors bear the author's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ni_framework.author.line import GAINS
from ni_framework.errors import CheckpointError

# Allocated by the author's model and read by nobody.
_UNUSED = re.compile(
    r"pos_embedding|.*\.(quantizer\.codebook|function_output_signatures|post_attention_gain|post_mlp_gain|relative_indices)"
    r"|.*\.function_embeddings_to_output_signatures\..*"
)
_COPY = re.compile(r"(transformer\.scripts\.\d+\.)function_pod\.(?:(type_inference\..*)|(quantizer\.codebook))")


def fill(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Gives a model on the meta device copies of the state's tensors; their dtype stays.

    Raises `CheckpointError` with all that is wrong, a line each: tensors that are missing, of another shape, without
    a place in the model, or twice in the state with different values.
    """
    problems: list[str] = []
    wanted = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, place in wanted.items():
        if name not in state:
            if name.rpartition(".")[2] not in GAINS:
                problems.append(f"{name}: missing; expected shape {list(place.shape)}")
            continue
        tensor = _tensor(state[name])
        if tensor is None or not tensor.is_floating_point():
            kind = type(state[name]).__name__ if tensor is None else str(tensor.dtype).removeprefix("torch.")
            problems.append(f"{name}: expected floating point numbers, not {kind}")
        elif tensor.shape != place.shape:
            problems.append(f"{name}: expected shape {list(place.shape)}, not {list(tensor.shape)}")
        else:
            found[name] = tensor
    problems += _strangers(state, wanted)
    _add_gains(found, wanted)
    kinds = {tensor.dtype: name for name, tensor in found.items()}
    if len(kinds) > 1:
        said = ", ".join(f"{name} {str(dtype).removeprefix('torch.')}" for dtype, name in kinds.items())
        problems.append(f"tensors of different dtypes cannot work together: {said}")
    if problems:
        raise CheckpointError("\n".join(f"state: {problem}" for problem in problems))
    model.load_state_dict(found, assign=True)


def _add_gains(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Puts in the author's constants where the state leaves them out."""
    for name in wanted.keys() - found.keys():
        if value := GAINS.get(name.rpartition(".")[2]):
            found[name] = torch.tensor(value, dtype=next((tensor.dtype for tensor in found.values()), None))


def _strangers(state: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with tensors that the model does not read."""
    problems = []
    for name in state:
        if name in wanted:
            continue
        original = _original(str(name))
        if original in wanted:
            if original in state and not _equal(state[name], state[original]):
                problems.append(f"{name}: differs from {original}, although both are one tensor")
        elif not _UNUSED.fullmatch(str(name)):
            problems.append(f"{name}: the model of this config has no such tensor")
    return problems


def _original(name: str) -> str:
    """The name of the tensor that the author's state lists again under this name."""
    copy = _COPY.fullmatch(name)
    return name if copy is None else copy[1] + (copy[2] or f"type_inference.{copy[3]}")


def _equal(one: Any, other: Any) -> bool:
    left, right = _tensor(one), _tensor(other)
    return left is not None and right is not None and torch.equal(left.double(), right.double())


def _tensor(value: Any) -> Tensor | None:
    """A copy of a tensor or an array of numbers; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "fiub":
        return torch.from_numpy(numpy.array(value))
    return None
