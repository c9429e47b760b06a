"""Traces of a forward pass: the compatibilities and states of every iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn


@frozen
class Trace:
    """What one forward pass computed; lists are indexed [script][iteration] or [script]."""

    # [B, U, V] each.
    compatibility: list[list[Tensor]]
    # [B, V, D] after each iteration.
    states: list[list[Tensor]]
    # [B, V, D] after each script.
    outputs: list[Tensor]
    logits: dict[str, Tensor]
    # For scripts with `execution: auto`: whether each iteration computed open pairs only.
    packed: list[list[bool]] = attrs.field(factory=list)
    # [I, B, V], the probability of halting after each iteration; None for a script without halting.
    halting: list[Tensor | None] = attrs.field(factory=list)


def trace(model: nn.Module, inputs: Tensor, mask: Tensor | None = None, tasks: Sequence[str] | None = None) -> Trace:
    """Runs the model once without gradients and returns what it computed; the model is not changed.

    Args:
        model: a model that this package built or loaded.
        inputs: a batch [B, *shape].
        mask: bool [B, N] over the input's elements; True means present.
        tasks: the tasks to compute; None means all.
    """
    with torch.no_grad():
        return trace_from_output(model(inputs, mask, tasks, detail="trace"))


def trace_from_output(output: Any) -> Trace:
    """Returns the trace in the output of a forward pass that was called with `detail="trace"`."""
    return Trace(
        compatibility=[script_output.compatibility for script_output in output.script_outputs],
        states=[script_output.state for script_output in output.script_outputs],
        outputs=[script_output.output_BVD for script_output in output.script_outputs],
        logits=output.logits,
        packed=[script_output.packed for script_output in output.script_outputs],
        halting=[script_output.halt_IBV for script_output in output.script_outputs],
    )
