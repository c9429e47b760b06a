"""Which elements another function takes in one model than in another, on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.checkpoint.load import read_golden, restored
from ni_framework.checkpoint.manifest import read_manifest
from ni_framework.contracts import Batch, Split
from ni_framework.errors import RunError, UsageError
from ni_framework.evaluation.evaluate import evaluating
from ni_framework.evaluation.function_usage import Chosen, batches, present, traceable
from ni_framework.model.compose import build_data
from ni_framework.model.function_similarity import moves
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace_of
from ni_framework.registry.attribution import blamed

SAMPLES = 256  # held-out ones, at most


@frozen
class Iteration:
    """How many elements have which taker in A (rows) and in B (columns); the last row and column are those of none."""

    matrix: list[list[int]]
    moved: float  # share of the elements that are not on the diagonal

    @property
    def elements(self) -> int:
        """How many were counted."""
        return sum(map(sum, self.matrix))


@frozen
class ScriptMoved:
    """The iterations of a script that both models have."""

    name: str
    iterations: list[Iteration]


@frozen
class Moved:
    """What was compared, on which samples, and what could not be."""

    samples: int
    inputs: str  # "held-out samples of B" or "golden inputs of B"
    elements: str  # "all", or "those of the input" where the models have other CLS elements
    scripts: list[ScriptMoved]
    left_out: list[str]


class _Golden:
    """A golden batch as a split, without answers."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return Batch(self.inputs[index_B], {})


def moved(a: Path, b: Path) -> Moved:
    """Counts, for the scripts and iterations that two checkpoints have in common, which function takes most of each element.

    The inputs are held-out samples of B, or its golden inputs where the data are not there. Functions are told apart by their
    numbers. Raises `UsageError` for models that take other inputs or make other elements of them.
    """
    manifest = read_manifest(b)
    (one, _), (other, recipe) = restored(a, read_manifest(a)), restored(b, manifest)
    _check_alike(one, other, a, b)
    left_out: list[str] = []
    try:
        split: Split = Chosen(build_data(recipe).open()["test"], SAMPLES)
    except RunError as error:
        left_out.append(f"held-out samples, so that the golden inputs were taken: {error}")
        split = _Golden(read_golden(b, manifest, other)["inputs"])
    same_start = _cls_elements(one) == _cls_elements(other)
    return Moved(
        samples=len(split),
        inputs="golden inputs of B" if left_out else "held-out samples of B",
        elements="all" if same_start else "those of the input",
        scripts=[*_named(count_moves(one, other, split))],
        left_out=left_out,
    )


@blamed()
def count_moves(one: Interpreter, other: Interpreter, split: Split) -> list[list[Tensor]]:
    """`moves` of the elements of a split, [U_one + 1, U_other + 1] by common script and iteration; both see the same.

    CLS elements do not count where the models have others.
    """
    leads = [_cls_elements(model) for model in (one, other)]
    same_start = leads[0] == leads[1]
    device = next(other.parameters()).device
    total: list[list[Tensor]] = []
    with evaluating(one), evaluating(other), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in batches(split, device, min(traceable(one), traceable(other))):
            seen = [
                trace_of(model(batch.inputs, batch.mask, detail="trace", key=batch.key)).compatibility
                for model in (one, other)
            ]
            skip = (0, 0) if same_start else (len(leads[0]), len(leads[1]))
            counts_BV = present(batch, seen[0][0][0].shape[-1])[:, skip[0] :]
            found = [
                [
                    moves(x_BUV[..., skip[0] :], y_BUV[..., skip[1] :], counts_BV)
                    for x_BUV, y_BUV in zip(*pair, strict=False)
                ]
                for pair in zip(*seen, strict=False)
            ]
            total = (
                [[x + y for x, y in zip(*pair, strict=True)] for pair in zip(total, found, strict=True)]
                if total
                else found
            )
    return total


def _cls_elements(model: Interpreter) -> tuple[str, ...]:
    """What each CLS element of a model is for."""
    tasks = tuple(model.tasks)
    number = len(model.head.start(tasks)[0])
    return tasks if number == len(tasks) else (", ".join(tasks),) * number


def _named(counts: list[list[Tensor]]) -> Iterator[ScriptMoved]:
    for number, of_script in enumerate(counts):
        iterations = []
        for matrix in of_script:
            common = min(matrix.shape) - 1
            stay = matrix[:common, :common].trace() + matrix[-1, -1]
            share = 1 - (stay / matrix.sum().clamp_min(1)).item()
            iterations.append(Iteration(matrix.tolist(), share))
        yield ScriptMoved(f"script{number}", iterations)


def _check_alike(one: Interpreter, other: Interpreter, a: Path, b: Path) -> None:
    for what, of_one, of_other in (
        ("takes inputs of shape", list(one.input.shape), list(other.input.shape)),
        ("makes an input into so many elements:", one.input.num_elements, other.input.num_elements),
    ):
        if of_one != of_other:
            raise UsageError(
                f"routing can be compared on the same elements only, but {a} {what} {of_one}, {b} {of_other}; "
                "leave out --routing, or name checkpoints with the same input"
            )
