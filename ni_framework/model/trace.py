"""A look at what a model does with a batch: every iteration's compatibilities and states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn


@frozen
class Trace:
    """What happened in one forward; lists are indexed [script][iteration] or [script]."""

    compatibility: list[list[Tensor]]  # [B, U, V] each
    states: list[list[Tensor]]  # [B, V, D] after each iteration
    outputs: list[Tensor]  # [B, V, D] after each script
    logits: dict[str, Tensor]
    packed: list[list[bool]] = attrs.field(
        factory=list
    )  # of scripts with `execution: auto`, whether only open pairs were computed
    halting: list[Tensor | None] = attrs.field(factory=list)  # [I, B, V], probability of halting after each iteration


def trace(model: nn.Module, inputs: Tensor, mask: Tensor | None = None, tasks: Sequence[str] | None = None) -> Trace:
    """Runs the model once without gradients and returns all that it did; the model is left as it was."""
    with torch.no_grad():
        return trace_of(model(inputs, mask, tasks, detail="trace"))


def trace_of(forward: Any) -> Trace:
    """The trace in a forward that was called with `detail="trace"`."""
    return Trace(
        compatibility=[passage.compatibility for passage in forward.passages],
        states=[passage.state for passage in forward.passages],
        outputs=[passage.output_BVD for passage in forward.passages],
        logits=forward.logits,
        packed=[passage.packed for passage in forward.passages],
        halting=[passage.halt_IBV for passage in forward.passages],
    )
