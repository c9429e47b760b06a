"""How much each function of a model is used on the samples of a split: over iterations, and for each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Batch, Split
from ni_framework.data.batch import to, weight_of
from ni_framework.evaluation.evaluate import BATCH, evaluating
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace_of
from ni_framework.nn.init import seed_of
from ni_framework.nn.random import keys
from ni_framework.registry.attribution import blamed

LARGEST = 2**24  # compatibilities that a batch may keep: 64 MiB


class Used(NamedTuple):
    """What one script's functions take; letters: I iterations, L tasks in the model's order. NaN for a task without samples.

    The use of a function is the share of an element that it takes, c_ui, in the mean over the elements that are present
    (CLS elements too) of the samples that have an answer for the task. An element that has halted, or that no function takes,
    counts with 0. With a router whose compatibilities sum to 1 the uses do so too.
    """

    use_ILU: Tensor  # mean of c_ui
    open_ILU: Tensor  # share of pairs with c_ui > 0


class Chosen:
    """A split of some samples of another, always the same ones, spread over it by chance."""

    def __init__(self, split: Split, samples: int) -> None:
        self.split = split
        self.index_S = keys(seed_of("chosen"), torch.arange(len(split))).argsort()[:samples].sort().values

    def __len__(self) -> int:
        return len(self.index_S)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return self.split.batch(self.index_S[index_B], key_B)


@blamed()
def used(model: Interpreter, split: Split) -> list[Used]:
    """What each script's functions take on a split, in evaluation mode; all tasks that the data have are asked for at once."""
    device, tasks = next(model.parameters()).device, tuple(model.tasks)
    taken = [torch.zeros(2, script.iterations, len(tasks), 1, dtype=torch.float64) for script in model.scripts]
    elements_L = torch.zeros(len(tasks), dtype=torch.float64)
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in batches(split, device, traceable(model)):
            seen = trace_of(model(batch.inputs, batch.mask, tuple(batch.targets), detail="trace", key=batch.key))
            present_BV = present(batch, seen.outputs[-1].shape[1])
            none_B = torch.zeros(len(batch.inputs), device=device)
            weights = [weight_of(batch, task) if task in batch.targets else none_B for task in tasks]
            weight_LB = torch.stack(weights).double()
            elements_L += (weight_LB @ present_BV.sum(dim=1).double()).cpu()
            for number, compatibilities in enumerate(seen.compatibility):
                c_IBUV = torch.stack(compatibilities)  # 0 where an element is masked
                by_sample = torch.stack([c_IBUV.sum(dim=-1), (c_IBUV > 0).sum(dim=-1)]).double()
                taken[number] = taken[number] + torch.einsum("lb,sibu->silu", weight_LB, by_sample).cpu()
    return [Used(*(of / elements_L[:, None])) for of in taken]


def traceable(model: Interpreter) -> int:
    """How many samples a batch may have so that all compatibilities of a model can be kept."""
    cls_elements = len(model.head.start(tuple(model.tasks))[0])
    iterated = sum(script.iterations * len(script.embedding()[0]) for script in model.scripts)
    return max(1, min(BATCH, LARGEST // (iterated * (model.input.num_elements + cls_elements))))


def batches(split: Split, device: torch.device, size: int) -> Iterator[Batch]:
    """The samples of a split in their order, with the keys that an evaluation gives them."""
    for start in range(0, len(split), size):
        index_B = torch.arange(start, min(start + size, len(split)))
        yield to(split.batch(index_B, None)._replace(key=keys(0, index_B)), device)


def present(batch: Batch, elements: int) -> Tensor:
    """Which of a model's elements take part, [B, V]; CLS elements, which come first, always do."""
    if batch.mask is None:
        return torch.ones(len(batch.inputs), elements, dtype=torch.bool, device=batch.inputs.device)
    return F.pad(batch.mask, (elements - batch.mask.shape[1], 0), value=True)
