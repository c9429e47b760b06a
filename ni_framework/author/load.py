"""From the author's keyword arguments and state dict to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ni_framework.author.config import read_config
from ni_framework.author.network import AuthorModel
from ni_framework.author.state import fill


def load_author_model(config: Mapping[str, Any], state: Mapping[str, Any]) -> nn.Module:
    """The author's `NeuralInterpreter(**config)` with the tensors of `state`, which keep their dtype.

    `model(inputs, mask=None, tasks=None, detail=None)` is called as any model of the framework and returns the same;
    `ni_framework.trace` works. Parameters have the author's names and shapes; tensors of the state that the author's
    model never reads are left out, and so are those that it never trains (the codebook). `state` holds numpy arrays or
    tensors by the author's names; they are copied. Raises `UsageError` for a config that cannot be read or asks for what is
    not supported, `CheckpointError` for a state that does not fit the config; each lists all that is wrong.
    """
    settings = read_config(config)
    with torch.device("meta"):
        model = AuthorModel(settings)
    fill(model, state)
    return model
