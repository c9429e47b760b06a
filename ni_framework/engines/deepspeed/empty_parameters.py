"""Workaround: DeepSpeed (0.19.8) fails on parameters without elements.

What DeepSpeed does: it broadcasts and shards every parameter, and reduces every gradient. What goes wrong: it can send neither a
tensor without elements nor the gradient of one. How this repairs it: such parameters become buffers of the same name, which
DeepSpeed does not send, and which checkpoints store in the same way.
"""

from __future__ import annotations

from torch import nn


def empty_parameters_to_buffers(module: nn.Module) -> None:
    """Turns a module's own parameters without elements into buffers."""
    for name, parameter in list(module._parameters.items()):
        if parameter is not None and not parameter.numel():
            del module._parameters[name]
            module.register_buffer(name, parameter.detach())
