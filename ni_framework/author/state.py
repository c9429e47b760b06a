"""Loads the author's state dict into a model whose tensors have the author's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ni_framework.author.line import RESIDUAL_GAINS
from ni_framework.errors import CheckpointError

# Tensors that the author's model allocates and never reads.
_UNUSED = re.compile(
    r"pos_embedding|.*\.(quantizer\.codebook|function_output_signatures|post_attention_gain|post_mlp_gain|relative_indices)"
    r"|.*\.function_embeddings_to_output_signatures\..*"
)
# Tensors that the author's state dict lists a second time, under the module that uses them.
_COPY = re.compile(r"(transformer\.scripts\.\d+\.)function_pod\.(?:(type_inference\..*)|(quantizer\.codebook))")


def load_author_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Assigns copies of the state's tensors to a model on the meta device; their dtype is kept.

    Raises `CheckpointError` with all problems, one on each line: tensors that are missing, have a wrong shape, do not exist in
    the model, or are in the state twice with different values.
    """
    problems: list[str] = []
    expected = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, target in expected.items():
        if name not in state:
            if name.rpartition(".")[2] not in RESIDUAL_GAINS:
                problems.append(f"{name}: missing; expected shape {list(target.shape)}")
            continue
        tensor = _copy_tensor(state[name])
        if tensor is None or not tensor.is_floating_point():
            kind = type(state[name]).__name__ if tensor is None else str(tensor.dtype).removeprefix("torch.")
            problems.append(f"{name}: expected floating point numbers, not {kind}")
        elif tensor.shape != target.shape:
            problems.append(f"{name}: expected shape {list(target.shape)}, not {list(tensor.shape)}")
        else:
            tensors[name] = tensor
    problems += _find_unexpected_tensors(state, expected)
    _add_gains(tensors, expected)
    dtype_examples = {tensor.dtype: name for name, tensor in tensors.items()}
    if len(dtype_examples) > 1:
        dtype_list = ", ".join(f"{name} {str(dtype).removeprefix('torch.')}" for dtype, name in dtype_examples.items())
        problems.append(f"all tensors must have the same dtype: {dtype_list}")
    if problems:
        raise CheckpointError("\n".join(f"state: {problem}" for problem in problems))
    model.load_state_dict(tensors, assign=True)


def _add_gains(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Adds the author's constants that the state does not contain."""
    for name in expected.keys() - tensors.keys():
        if value := RESIDUAL_GAINS.get(name.rpartition(".")[2]):
            tensors[name] = torch.tensor(value, dtype=next((tensor.dtype for tensor in tensors.values()), None))


def _find_unexpected_tensors(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    """Problems with tensors that the model does not read."""
    problems = []
    for name in state:
        if name in expected:
            continue
        original = _original_name(str(name))
        if original in expected:
            if original in state and not _values_equal(state[name], state[original]):
                problems.append(f"{name}: differs from {original}, although both are the same tensor")
        elif not _UNUSED.fullmatch(str(name)):
            problems.append(f"{name}: the model of this config has no such tensor")
    return problems


def _original_name(name: str) -> str:
    """The name of the tensor that the author's state lists a second time under this name."""
    copy = _COPY.fullmatch(name)
    return name if copy is None else copy[1] + (copy[2] or f"type_inference.{copy[3]}")


def _values_equal(one: Any, other: Any) -> bool:
    left, right = _copy_tensor(one), _copy_tensor(other)
    return left is not None and right is not None and torch.equal(left.double(), right.double())


def _copy_tensor(value: Any) -> Tensor | None:
    """A copy of a tensor or an array of numbers; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "fiub":
        return torch.from_numpy(numpy.array(value))
    return None
