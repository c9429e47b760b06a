"""Measures how much each function of a model is used on a split, for each iteration and each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Batch, Split
from ni_framework.data.batch import sample_weights, to_device
from ni_framework.evaluation.evaluate import EVAL_BATCH_SIZE, eval_mode
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace_from_output
from ni_framework.nn.init import derive_seed
from ni_framework.nn.random import rng_keys
from ni_framework.registry.attribution import attribute_errors

# How many compatibilities the trace of a batch may hold: 64 MiB.
MAX_TRACED_COMPATIBILITIES = 2**24


class FunctionUsage(NamedTuple):
    """The usage of one script's functions. Letters: I iterations, L tasks in the model's order; NaN for a task without samples.

    use_ILU is a function's mean compatibility with an element, c_ui, and open_ILU the fraction of pairs with c_ui > 0. Both
    are means over the present elements, CLS elements included, of the samples that have a target for the task. An element
    that has halted, or that no function takes, counts as 0. If a router's compatibilities sum to 1, so does use_ILU over U.
    """

    use_ILU: Tensor
    open_ILU: Tensor


class SampledSplit:
    """A random selection of another split's samples, in their order; it is always the same selection."""

    def __init__(self, split: Split, samples: int) -> None:
        self.split = split
        self.index_S = rng_keys(derive_seed("chosen"), torch.arange(len(split))).argsort()[:samples].sort().values

    def __len__(self) -> int:
        return len(self.index_S)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return self.split.batch(self.index_S[index_B], key_B)


@attribute_errors()
def measure_function_usage(model: Interpreter, split: Split) -> list[FunctionUsage]:
    """Measures the usage of each script's functions on a split, in evaluation mode.

    Args:
        model: The model, on the device on which it is evaluated.
        split: The samples; every task that they have a target for is requested in the same forward pass.

    Returns:
        The usage of each script, in their order.
    """
    device, tasks = next(model.parameters()).device, tuple(model.tasks)
    totals = [torch.zeros(2, script.iterations, len(tasks), 1, dtype=torch.float64) for script in model.scripts]
    elements_L = torch.zeros(len(tasks), dtype=torch.float64)
    with eval_mode(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in iter_split_batches(split, device, max_trace_batch_size(model)):
            model_trace = trace_from_output(
                model(batch.inputs, batch.mask, tuple(batch.targets), detail="trace", key=batch.key)
            )
            present_BV = element_mask(batch, model_trace.outputs[-1].shape[1])
            zero_B = torch.zeros(len(batch.inputs), device=device)
            weights = [sample_weights(batch, task) if task in batch.targets else zero_B for task in tasks]
            weight_LB = torch.stack(weights).double()
            elements_L += (weight_LB @ present_BV.sum(dim=1).double()).cpu()
            for number, compatibilities in enumerate(model_trace.compatibility):
                # Compatibilities are 0 where an element is masked.
                c_IBUV = torch.stack(compatibilities)
                by_sample = torch.stack([c_IBUV.sum(dim=-1), (c_IBUV > 0).sum(dim=-1)]).double()
                totals[number] = totals[number] + torch.einsum("lb,sibu->silu", weight_LB, by_sample).cpu()
    return [FunctionUsage(*(total / elements_L[:, None])) for total in totals]


def max_trace_batch_size(model: Interpreter) -> int:
    """Returns how many samples a batch may have so that the trace of all compatibilities fits into memory."""
    cls_elements = len(model.head.cls_tokens(tuple(model.tasks))[0])
    functions_times_iterations = sum(script.iterations * len(script.embedding()[0]) for script in model.scripts)
    compatibilities_per_sample = functions_times_iterations * (model.input.num_elements + cls_elements)
    return max(1, min(EVAL_BATCH_SIZE, MAX_TRACED_COMPATIBILITIES // compatibilities_per_sample))


def iter_split_batches(split: Split, device: torch.device, size: int) -> Iterator[Batch]:
    """Yields batches of up to `size` samples of a split, in their order, with the RNG keys that an evaluation gives them."""
    for start in range(0, len(split), size):
        index_B = torch.arange(start, min(start + size, len(split)))
        yield to_device(split.batch(index_B, None)._replace(key=rng_keys(0, index_B)), device)


def element_mask(batch: Batch, elements: int) -> Tensor:
    """Returns which of a model's `elements` elements are present, [B, V]; CLS elements, which come first, always are."""
    if batch.mask is None:
        return torch.ones(len(batch.inputs), elements, dtype=torch.bool, device=batch.inputs.device)
    return F.pad(batch.mask, (elements - batch.mask.shape[1], 0), value=True)
