"""Workaround: DeepSpeed (0.19.8) needs a gradient for the input of each script.

What DeepSpeed does: at stage 3 it frees a script's weights and reduces its gradients when the gradient of the script's input
arrives in the backward pass. What goes wrong: the first script's input need not depend on a parameter. Then it gets no gradient,
and the script's weights stay in memory with their gradients not reduced. How this repairs it: a forward pre-hook makes the
input require a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def require_input_grad(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A forward pre-hook: replaces a first argument without a gradient by a copy that requires one."""
    x_BVD: Tensor = arguments[0]
    if x_BVD.requires_grad or not torch.is_grad_enabled():
        return None
    return x_BVD.detach().requires_grad_(), *arguments[1:]
