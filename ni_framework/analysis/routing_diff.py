"""Compares which function takes each element in two models, on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.checkpoint.load import load_unchecked, read_golden
from ni_framework.checkpoint.manifest import read_manifest
from ni_framework.contracts import Batch, Split
from ni_framework.errors import RunError, UsageError
from ni_framework.evaluation.evaluate import eval_mode
from ni_framework.evaluation.function_usage import SampledSplit, element_mask, iter_split_batches, max_trace_batch_size
from ni_framework.model.compose import build_data
from ni_framework.model.function_similarity import assignment_confusion
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace_from_output
from ni_framework.registry.attribution import attribute_errors

MAX_HELD_OUT_SAMPLES = 256


@frozen
class IterationConfusion:
    """Numbers of elements by the function that takes most of them in A (rows) and in B (columns).

    The last row and the last column count the elements that no function takes. `reassigned` is the fraction of elements off the
    diagonal.
    """

    matrix: list[list[int]]
    reassigned: float

    @property
    def elements(self) -> int:
        """The number of elements that were counted."""
        return sum(map(sum, self.matrix))


@frozen
class ScriptConfusion:
    """The iterations of a script that both models have."""

    name: str
    iterations: list[IterationConfusion]


@frozen
class RoutingDiff:
    """The result of the comparison, its samples, and reasons why something was not compared."""

    samples: int
    inputs: str  # "held-out samples of B" or "golden inputs of B"
    elements: str  # "all", or "those of the input" if the models have different CLS elements
    scripts: list[ScriptConfusion]
    left_out: list[str]


class _GoldenSplit:
    """The inputs of a golden batch as a split without targets."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return Batch(self.inputs[index_B], {})


def diff_routing(a: Path, b: Path) -> RoutingDiff:
    """Counts which function takes most of each element, for the scripts and iterations that two checkpoints have in common.

    The inputs are held-out samples of B, or its golden inputs if the data are not available. Functions are identified by their
    numbers.

    Args:
        a: The folder of the first checkpoint.
        b: The folder of the second checkpoint.

    Raises:
        UsageError: The models take inputs of different shapes, or turn them into different numbers of elements.
    """
    manifest = read_manifest(b)
    (model_a, _), (model_b, recipe) = load_unchecked(a, read_manifest(a)), load_unchecked(b, manifest)
    _require_same_elements(model_a, model_b, a, b)
    left_out: list[str] = []
    try:
        split: Split = SampledSplit(build_data(recipe).open()["test"], MAX_HELD_OUT_SAMPLES)
    except RunError as error:
        left_out.append(f"held-out samples, so the golden inputs were used: {error}")
        split = _GoldenSplit(read_golden(b, manifest, model_b)["inputs"])
    same_cls_elements = _cls_elements(model_a) == _cls_elements(model_b)
    return RoutingDiff(
        samples=len(split),
        inputs="golden inputs of B" if left_out else "held-out samples of B",
        elements="all" if same_cls_elements else "those of the input",
        scripts=[*_script_confusions(count_assignment_changes(model_a, model_b, split))],
        left_out=left_out,
    )


@attribute_errors()
def count_assignment_changes(model_a: Interpreter, model_b: Interpreter, split: Split) -> list[list[Tensor]]:
    """Counts the elements of a split by their functions in two models (`assignment_confusion`).

    CLS elements are counted only if both models have the same ones.

    Returns:
        A count matrix [U_a + 1, U_b + 1] for each common script and iteration.
    """
    cls_elements = [_cls_elements(model) for model in (model_a, model_b)]
    same_cls_elements = cls_elements[0] == cls_elements[1]
    num_skipped = (0, 0) if same_cls_elements else (len(cls_elements[0]), len(cls_elements[1]))
    device = next(model_b.parameters()).device
    total: list[list[Tensor]] = []
    with eval_mode(model_a), eval_mode(model_b), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in iter_split_batches(
            split, device, min(max_trace_batch_size(model_a), max_trace_batch_size(model_b))
        ):
            compatibilities = [
                trace_from_output(model(batch.inputs, batch.mask, detail="trace", key=batch.key)).compatibility
                for model in (model_a, model_b)
            ]
            counts_BV = element_mask(batch, compatibilities[0][0][0].shape[-1])[:, num_skipped[0] :]
            counts = [
                [
                    assignment_confusion(x_BUV[..., num_skipped[0] :], y_BUV[..., num_skipped[1] :], counts_BV)
                    for x_BUV, y_BUV in zip(*pair, strict=False)
                ]
                for pair in zip(*compatibilities, strict=False)
            ]
            total = (
                [[x + y for x, y in zip(*pair, strict=True)] for pair in zip(total, counts, strict=True)]
                if total
                else counts
            )
    return total


def _cls_elements(model: Interpreter) -> tuple[str, ...]:
    """Returns the task of each CLS element of a model, or all tasks if they share the CLS elements."""
    tasks = tuple(model.tasks)
    number = len(model.head.cls_tokens(tasks)[0])
    return tasks if number == len(tasks) else (", ".join(tasks),) * number


def _script_confusions(counts: list[list[Tensor]]) -> Iterator[ScriptConfusion]:
    for number, matrices in enumerate(counts):
        iterations = []
        for matrix in matrices:
            common = min(matrix.shape) - 1
            unchanged = matrix[:common, :common].trace() + matrix[-1, -1]
            reassigned = 1 - (unchanged / matrix.sum().clamp_min(1)).item()
            iterations.append(IterationConfusion(matrix.tolist(), reassigned))
        yield ScriptConfusion(f"script{number}", iterations)


def _require_same_elements(model_a: Interpreter, model_b: Interpreter, a: Path, b: Path) -> None:
    for what, value_a, value_b in (
        ("takes inputs of shape", list(model_a.input.shape), list(model_b.input.shape)),
        ("has this number of elements for an input:", model_a.input.num_elements, model_b.input.num_elements),
    ):
        if value_a != value_b:
            raise UsageError(
                f"routing can only be compared on the same elements, but {a} {what} {value_a}, {b} {value_b}; "
                "remove --routing, or name checkpoints with the same input"
            )
