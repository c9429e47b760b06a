"""Finds the cause of a skipped step: which samples, and the first module whose values are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from ni_framework.contracts import Batch
from ni_framework.data.batch import sample_weights
from ni_framework.model.interpreter import Interpreter

# How many samples a description lists.
MAX_LISTED_SAMPLES = 5
INPUT_PREFIX = "the input of "


@frozen
class NonfiniteReport:
    """The positions in the batch of the samples at fault, worst first, and where the first nonfinite value was found."""

    positions: list[int]
    origin: str | None

    def describe(self, index_B: Tensor) -> str:
        """Returns a description for a message; `index_B` holds the indices of the batch's samples in the training split."""
        indices = ", ".join(str(int(index_B[position])) for position in self.positions[:MAX_LISTED_SAMPLES])
        num_unlisted = len(self.positions) - MAX_LISTED_SAMPLES
        more = f" and {num_unlisted} more" if num_unlisted > 0 else ""
        samples = f"samples of the training part: {indices}{more}" if self.positions else "no single sample is at fault"
        return f"{samples}; first that is not finite: {self.origin}" if self.origin else samples


def find_nonfinite(
    model: Interpreter, micro_batches: Sequence[Batch], autocast: torch.autocast, gradient: str | None = None
) -> NonfiniteReport:
    """Runs a batch once more, one micro-batch after the other, and checks the values of every module.

    Args:
        model: The model, in training mode.
        micro_batches: The micro-batches of this rank's part of the batch.
        autocast: The precision of the forward pass.
        gradient: The first parameter whose gradient was not finite; it is reported if all values are finite.

    Returns:
        The samples at fault. If every value is finite, these are the up to three samples with the largest losses.
    """
    positions: list[int] = []
    losses: list[Tensor] = []
    origin = None
    start = 0
    for micro_batch in micro_batches:
        nonfinite_modules: list[str] = []
        with torch.no_grad(), autocast, _record_first_nonfinite(model, nonfinite_modules):
            logits = model(micro_batch.inputs, micro_batch.mask, tuple(micro_batch.targets), key=micro_batch.key)
        bad_B, loss_B = _bad_samples_and_losses(model, micro_batch, logits)
        positions += (bad_B.nonzero().flatten() + start).tolist()
        losses.append(loss_B)
        if origin is None:
            origin = _first_origin(micro_batch, nonfinite_modules, bad_B, loss_B)
        start += len(micro_batch.inputs)
    if not positions:
        # Everything is finite, but too large: the samples with the largest losses are the cause.
        loss_B = torch.cat(losses)
        positions = loss_B.topk(min(3, len(loss_B))).indices.tolist()
    return NonfiniteReport(positions, origin or (f"the gradient of {gradient}" if gradient else None))


def _bad_samples_and_losses(
    model: Interpreter, micro_batch: Batch, logits: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns which samples have nonfinite logits or losses, and the loss of each sample summed over tasks, both [B]."""
    bad_B = torch.zeros(len(micro_batch.inputs), dtype=torch.bool, device=micro_batch.inputs.device)
    loss_B = torch.zeros(len(micro_batch.inputs), device=micro_batch.inputs.device)
    for task, task_logits in logits.items():
        task_loss_B = model.head.loss(task_logits.float(), micro_batch.targets[task])
        task_loss_B = torch.where(sample_weights(micro_batch, task) > 0, task_loss_B, 0)
        loss_B = loss_B + task_loss_B
        bad_B |= ~task_logits.flatten(1).isfinite().all(dim=1) | ~task_loss_B.isfinite()
    return bad_B, loss_B


def _first_origin(micro_batch: Batch, nonfinite_modules: Sequence[str], bad_B: Tensor, loss_B: Tensor) -> str | None:
    """Returns where the first nonfinite value of a micro-batch came from; None if all values are finite."""
    if nonfinite_modules:
        first = nonfinite_modules[0]
        is_input_nonfinite = first.startswith(INPUT_PREFIX) and not micro_batch.inputs[bad_B].isfinite().all()
        return "the input itself" if is_input_nonfinite else first
    return None if loss_B.isfinite().all() else "head.loss"


@contextmanager
def _record_first_nonfinite(model: nn.Module, nonfinite_modules: list[str]) -> Iterator[None]:
    """Appends the name of the first module whose output is not finite, with a prefix if its input was not either."""

    def check_module(name: str, inputs: Any, keyword_inputs: Any, output: Any) -> None:
        if not nonfinite_modules and not _is_finite(output):
            nonfinite_modules.append(name if _is_finite((inputs, keyword_inputs)) else f"{INPUT_PREFIX}{name}")

    handles = [
        module.register_forward_hook(lambda _, *values, name=name: check_module(name, *values), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(value: Any) -> bool:
    return all(tensor.isfinite().all() for tensor in _iter_tensors(value) if tensor.is_floating_point())


def _iter_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _iter_tensors(item)
