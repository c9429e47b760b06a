"""Evaluation on the held-out part; nothing in training changes by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ni_framework.contracts import Split
from ni_framework.data.batch import to, weight_of
from ni_framework.distributed.communicator import ALONE, Team
from ni_framework.model.interpreter import Interpreter
from ni_framework.nn.random import keys
from ni_framework.registry.attribution import blamed

BATCH = 256


class Stopped(Exception):
    """An evaluation that was asked to stop."""


@blamed()
def evaluate(
    model: Interpreter,
    split: Split,
    autocast: torch.autocast | None = None,
    stop: Callable[[], bool] = lambda: False,
    team: Team = ALONE,
) -> dict[str, float]:
    """`test/<metric>`, mean over samples and then tasks; with several tasks also `test/<metric>/<task>`.

    A team divides the samples among its processes, which all do as many forwards: some answer a sample that does not count.
    Raises `Stopped` between two batches once `stop` says so.
    """
    device = next(model.parameters()).device
    sums: dict[str, dict[str, torch.Tensor]] = {}
    counts: dict[str, torch.Tensor] = {}
    with evaluating(model), torch.no_grad(), autocast or torch.autocast(device.type, enabled=False):
        for start in range(0, len(split), BATCH * team.size):
            if stop():
                raise Stopped
            first = start + BATCH * team.rank
            counts_here = first < len(split)
            index_B = torch.arange(first, min(first + BATCH, len(split))) if counts_here else torch.zeros(1).long()
            batch = to(split.batch(index_B, None)._replace(key=keys(0, index_B)), device)
            logits = model(batch.inputs, batch.mask, tuple(batch.targets), key=batch.key)
            for task, target in batch.targets.items():
                weight = weight_of(batch, task) * counts_here
                counts[task] = counts.get(task, 0) + weight.sum()
                of_task = sums.setdefault(task, {})
                for name, value in model.head.metrics(logits[task].float(), target).items():
                    of_task[name] = of_task.get(name, 0) + (value * weight).sum()
    counts = team.sums(counts)
    sums = {task: team.sums(of_task) for task, of_task in sums.items()}
    means = {task: {name: (total / counts[task]).item() for name, total in sums[task].items()} for task in sums}
    names = sorted({name for of_task in means.values() for name in of_task})
    metrics = {}
    for name in names:
        values = [of_task[name] for of_task in means.values()]
        metrics[f"test/{name}"] = sum(values) / len(values)
    if len(means) > 1:
        metrics |= {f"test/{name}/{task}": value for task, of_task in means.items() for name, value in of_task.items()}
    return metrics


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in the mode in which it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
