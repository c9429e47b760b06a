"""Evaluation on the held-out split. It does not change the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ni_framework.contracts import Split
from ni_framework.data.batch import sample_weights, to_device
from ni_framework.distributed.communicator import SINGLE_PROCESS, Communicator
from ni_framework.model.interpreter import Interpreter
from ni_framework.nn.random import rng_keys
from ni_framework.registry.attribution import attribute_errors

EVAL_BATCH_SIZE = 256


class EvaluationStopped(Exception):
    """Raised by an evaluation that was requested to stop."""


@attribute_errors()
def evaluate_model(
    model: Interpreter,
    split: Split,
    autocast: torch.autocast | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    comm: Communicator = SINGLE_PROCESS,
) -> dict[str, float]:
    """Evaluates a model on a split, in evaluation mode and without gradients; afterwards it is in the mode it was in before.

    Several ranks split the samples between them. All of them run as many forward passes, since a sharded model needs every
    rank: a rank without samples left repeats one that does not count.

    Args:
        model: The model, on the device on which it is evaluated.
        split: The samples; an evaluation covers all of them.
        autocast: The precision of the forward pass; None for fp32.
        should_stop: Called before each batch; all ranks must return the same.
        comm: The ranks that evaluate together, each with the same model and split.

    Returns:
        `test/<metric>`, the mean over samples and then over tasks; with several tasks also `test/<metric>/<task>`. The
        metrics are those of the model's head, such as "loss" and "accuracy". Every rank returns the same.

    Raises:
        EvaluationStopped: `should_stop` has returned True.
        PluginError: A component of a plugin fails.
    """
    device = next(model.parameters()).device
    sums: dict[str, dict[str, Tensor]] = {}
    counts: dict[str, Tensor] = {}
    with eval_mode(model), torch.no_grad(), autocast or torch.autocast(device.type, enabled=False):
        for index_B, is_counted in _iter_rank_indices(len(split), comm):
            if should_stop():
                raise EvaluationStopped
            batch = to_device(split.batch(index_B, None)._replace(key=rng_keys(0, index_B)), device)
            logits = model(batch.inputs, batch.mask, tuple(batch.targets), key=batch.key)
            for task, target in batch.targets.items():
                weight = sample_weights(batch, task) * is_counted
                counts[task] = counts.get(task, 0) + weight.sum()
                task_sums = sums.setdefault(task, {})
                for name, value in model.head.metrics(logits[task].float(), target).items():
                    task_sums[name] = task_sums.get(name, 0) + (value * weight).sum()
    counts = comm.all_reduce_sum_dict(counts)
    sums = {task: comm.all_reduce_sum_dict(task_sums) for task, task_sums in sums.items()}
    return _mean_metrics({task: {n: (total / counts[task]).item() for n, total in sums[task].items()} for task in sums})


def _iter_rank_indices(num_samples: int, comm: Communicator) -> Iterator[tuple[Tensor, bool]]:
    """Yields the sample indices of this rank's batches, as many as every other rank's, and whether a batch counts."""
    for start in range(0, num_samples, EVAL_BATCH_SIZE * comm.world_size):
        first = start + EVAL_BATCH_SIZE * comm.rank
        is_counted = first < num_samples
        end = min(first + EVAL_BATCH_SIZE, num_samples)
        yield torch.arange(first, end) if is_counted else torch.zeros(1).long(), is_counted


def _mean_metrics(task_metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns the means over the tasks that have a metric, and with several tasks the metrics of each task."""
    metrics = {}
    for name in sorted({name for values in task_metrics.values() for name in values}):
        values = [values[name] for values in task_metrics.values()]
        metrics[f"test/{name}"] = sum(values) / len(values)
    if len(task_metrics) > 1:
        for task, values in task_metrics.items():
            metrics |= {f"test/{name}/{task}": value for name, value in values.items()}
    return metrics


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and afterwards back into the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
