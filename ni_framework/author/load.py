"""Builds a model from the author's keyword arguments and state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ni_framework.author.config import read_config
from ni_framework.author.network import AuthorModel
from ni_framework.author.state import load_author_state


def load_author_model(config: Mapping[str, Any], state: Mapping[str, Any]) -> nn.Module:
    """The author's `NeuralInterpreter(**config)` with the tensors of a state dict.

    The model is called like any model of the framework, `model(inputs, mask=None, tasks=None, detail=None)`, returns the same
    and works with `ni_framework.trace`. Its parameters have the author's names and shapes. The codebook, which the author's
    model never trains, is not a parameter, and tensors of the state that the author's model never reads are skipped.

    Args:
        config: The author's keyword arguments.
        state: numpy arrays or tensors by the author's names; they are copied and keep their dtype.

    Raises:
        UsageError: for an invalid config or one with unsupported values, with all problems.
        CheckpointError: for a state that does not match the config, with all problems.
    """
    settings = read_config(config)
    with torch.device("meta"):
        model = AuthorModel(settings)
    load_author_state(model, state)
    return model
