"""`ni diff`: prints the differences between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ni_framework.cli.output import emit, json_option, print_status

if TYPE_CHECKING:
    from ni_framework.analysis.diff import CheckpointDiff, FunctionChange, ParameterChange, ValueChange
    from ni_framework.analysis.routing_diff import IterationConfusion, RoutingDiff
    from ni_framework.cli.tables import Grid

# Limits of the text; --json has no limits.
MAX_DIFF_TENSORS = 40
# Functions that are listed for one tensor, and the largest number of functions for which a matrix of counts is printed.
MAX_DIFF_FUNCTIONS = 12
# Of a matrix that is too large, only the largest counts are printed.
MAX_DIFF_MOVES = 10


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--routing", is_flag=True, help="Also count the elements that are assigned to different functions in A and in B."
)
@json_option
def command(a: str, b: str, routing: bool, as_json: bool) -> None:
    """Compare the checkpoints A and B: their recipes, parameters and lockfiles. A run folder stands for its newest checkpoint.

    The exit code is 0 whether they differ or not.
    """
    from ni_framework.analysis.diff import diff_checkpoints, diff_to_json
    from ni_framework.checkpoint.run_dir import find_checkpoint
    from ni_framework.cli.tables import render_blocks

    diff = diff_checkpoints(find_checkpoint(a), find_checkpoint(b), routing)
    for reason in diff.routing.left_out if diff.routing else ():
        print_status(f"not compared: {reason}")
    emit(diff_to_json(diff), "" if as_json else render_blocks([*_diff_blocks(diff)]), as_json)


def _diff_blocks(diff: CheckpointDiff) -> Iterator[str | Grid]:
    for name, side in (("A", diff.a), ("B", diff.b)):
        yield f"{name}: {side.checkpoint}: {side.recipe}, step {side.step:,}, {side.weights} weights"
    yield from _change_blocks("recipe", diff.recipe)
    yield from _parameter_blocks(diff.parameters, diff.equal_parameters)
    yield from _change_blocks("made with", diff.lock)
    if diff.routing is not None:
        yield from _routing_blocks(diff.routing)


def _change_blocks(title: str, changes: Sequence[ValueChange]) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid
    from ni_framework.recipe.parsing.wording import escape_unprintable, shorten

    def cell(value: Any, absent: bool) -> str:
        return "absent" if absent else "null" if value is None else escape_unprintable(shorten(str(value)))

    if not changes:
        yield f"\n{title}: no difference"
        return
    yield f"\n{title}"
    rows = [
        (
            escape_unprintable(shorten(change.key)),
            cell(change.a, change.only_in == "B"),
            cell(change.b, change.only_in == "A"),
        )
        for change in changes
    ]
    yield Grid(("key", "A", "B"), rows, num_name_columns=3)


def _parameter_blocks(changes: Sequence[ParameterChange], equal: int) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid
    from ni_framework.recipe.parsing.wording import escape_unprintable, shorten

    yield f"\nparameters: {len(changes):,} tensors differ, {equal:,} are equal"
    if not changes:
        return
    by_size = sorted(changes, key=lambda change: math.inf if change.change is None else change.change, reverse=True)
    largest = by_size[:MAX_DIFF_TENSORS]
    rows = [
        (
            escape_unprintable(shorten(change.name)),
            _format_shape(change.shape_a),
            _format_shape(change.shape_b),
            _format_change(change.change),
            _format_function_changes(change.functions),
        )
        for change in changes
        if change in largest
    ]
    yield Grid(("tensor", "A", "B", "change", "functions"), rows, num_name_columns=5)
    if len(changes) > len(largest):
        yield f"and {len(changes) - len(largest):,} that changed less; --json has all"


def _format_shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"


def _format_change(change: float | None) -> str:
    return "" if change is None else "from 0" if math.isinf(change) else f"{change:.2%}"


def _format_function_changes(functions: Sequence[FunctionChange]) -> str:
    """Lists the functions that differ, each with its change, and those that only one side has."""
    both = [function for function in functions if function.only_in is None]
    texts = [f"{function.name} {_format_change(function.change)}" for function in both[:MAX_DIFF_FUNCTIONS]]
    texts += [f"{len(both) - MAX_DIFF_FUNCTIONS:,} more"] if len(both) > MAX_DIFF_FUNCTIONS else []
    if one_sided := [function for function in functions if function.only_in is not None]:
        names = one_sided[0].name if len(one_sided) == 1 else f"{one_sided[0].name} to {one_sided[-1].name}"
        texts.append(f"{names} only in {one_sided[0].only_in}")
    return ", ".join(texts)


def _routing_blocks(routing: RoutingDiff) -> Iterator[str | Grid]:
    elements = "all elements" if routing.elements == "all" else "elements of the input"
    yield f"\nrouting, {elements} of {routing.samples} {routing.inputs}: elements by their function in A (rows) and B (columns)"
    for script in routing.scripts:
        for number, iteration in enumerate(script.iterations):
            changed = f"{iteration.reassigned:.1%} of {iteration.elements:,} elements"
            yield f"{script.name}, iteration {number}: {changed} changed function"
            yield from _confusion_grids(iteration)


def _confusion_grids(iteration: IterationConfusion) -> Iterator[Grid]:
    from ni_framework.cli.tables import Grid

    matrix = iteration.matrix
    rows, columns = ([*(f"f{number}" for number in range(size - 1)), "none"] for size in (len(matrix), len(matrix[0])))
    if max(len(rows), len(columns)) <= MAX_DIFF_FUNCTIONS + 1:
        counts = [(name, *(f"{count:,}" for count in row)) for name, row in zip(rows, matrix, strict=True)]
        yield Grid(("", *columns), counts)
        return
    moves = [
        (rows[row], columns[column], count)
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if count and rows[row] != columns[column]
    ]
    largest = sorted(moves, key=lambda move: -move[2])[:MAX_DIFF_MOVES]
    yield Grid(
        ("from", "to", "elements"),
        [(old, new, f"{count:,}") for old, new, count in largest],
        num_name_columns=2,
    )
