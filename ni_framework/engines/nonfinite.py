"""Where a step went wrong: which samples, and the first module whose values are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from ni_framework.contracts import Batch
from ni_framework.data.batch import weight_of
from ni_framework.model.interpreter import Interpreter

SHOWN = 5  # samples that are named
GIVEN = "the input of "


@frozen
class Diagnosis:
    """Places in the batch of the samples at fault, worst first, and what was found first that is not finite."""

    places: list[int]
    origin: str | None

    def words(self, index_B: Tensor) -> str:
        """For people; `index_B` holds the batch's samples by their numbers in the training part."""
        numbers = ", ".join(str(int(index_B[place])) for place in self.places[:SHOWN])
        more = f" and {len(self.places) - SHOWN} more" if len(self.places) > SHOWN else ""
        samples = f"samples of the training part: {numbers}{more}" if self.places else "no single sample stands out"
        return f"{samples}; first that is not finite: {self.origin}" if self.origin else samples


def diagnose(
    model: Interpreter, parts: Sequence[Batch], autocast: torch.autocast, gradient: str | None = None
) -> Diagnosis:
    """Runs a batch once more, part by part, and looks at every module; `gradient` is the parameter with the first bad one."""
    places: list[int] = []
    losses: list[Tensor] = []
    origin = None
    start = 0
    for part in parts:
        first: list[str] = []
        with torch.no_grad(), autocast, _watched(model, first):
            logits = model(part.inputs, part.mask, tuple(part.targets), key=part.key)
        bad_B = torch.zeros(len(part.inputs), dtype=torch.bool, device=part.inputs.device)
        loss_B = torch.zeros(len(part.inputs), device=part.inputs.device)
        for task, answer in logits.items():
            of_task_B = model.head.loss(answer.float(), part.targets[task])
            of_task_B = torch.where(weight_of(part, task) > 0, of_task_B, 0)
            loss_B = loss_B + of_task_B
            bad_B |= ~answer.flatten(1).isfinite().all(dim=1) | ~of_task_B.isfinite()
        places += (bad_B.nonzero().flatten() + start).tolist()
        losses.append(loss_B)
        if origin is None and first:
            own = first[0].startswith(GIVEN) and not part.inputs[bad_B].isfinite().all()
            origin = "the input itself" if own else first[0]
        elif origin is None and not loss_B.isfinite().all():
            origin = "head.loss"
        start += len(part.inputs)
    if not places:  # everything is finite, but too large: the largest losses are to blame
        loss_B = torch.cat(losses)
        places = loss_B.topk(min(3, len(loss_B))).indices.tolist()
    return Diagnosis(places, origin or (f"the gradient of {gradient}" if gradient else None))


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Notes the first module to end with values that are not finite, or that was given such."""

    def note(name: str, inputs: Any, named: Any, output: Any) -> None:
        if not found and not _finite(output):
            found.append(name if _finite((inputs, named)) else f"{GIVEN}{name}")

    handles = [
        module.register_forward_hook(lambda _, *values, name=name: note(name, *values), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Any) -> bool:
    return all(tensor.isfinite().all() for tensor in _tensors(value) if tensor.is_floating_point())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
