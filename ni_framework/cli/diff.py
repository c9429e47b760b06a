"""`ni diff`: what differs between two checkpoints?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ni_framework.cli.output import emit, json_option, narrate

if TYPE_CHECKING:
    from ni_framework.analysis.diff import Change, Difference, FunctionChange, ParameterChange
    from ni_framework.analysis.routing_diff import Iteration, Moved
    from ni_framework.cli.tables import Grid

SHOWN = 40  # tensors of which the changes are shown
FUNCTIONS = 12  # of a tensor, or on a side of a matrix of moves
MOVES = 10  # the largest of a matrix that is too large


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--routing", is_flag=True, help="Also count which elements another function takes in B than in A.")
@json_option
def command(a: str, b: str, routing: bool, as_json: bool) -> None:
    """Compare the checkpoints A and B (or the newest of run folders): recipes, parameters, and what they were made with.

    Ends with exit code 0 whether they differ or not.
    """
    import attrs

    from ni_framework.analysis.diff import diff_checkpoints
    from ni_framework.checkpoint.run_dir import find_checkpoint
    from ni_framework.cli.tables import rendered

    found = diff_checkpoints(find_checkpoint(a), find_checkpoint(b), routing)
    for reason in found.routing.left_out if found.routing else ():
        narrate(f"not compared: {reason}")
    emit(attrs.asdict(found), "" if as_json else rendered([*_parts(found)]), as_json)


def _parts(found: Difference) -> Iterator[str | Grid]:
    for name, side in (("A", found.a), ("B", found.b)):
        yield f"{name}: {side.checkpoint}: {side.recipe}, step {side.step:,}, {side.weights} weights"
    yield from _changes("recipe", found.recipe)
    yield from _parameters(found.parameters, found.equal_parameters)
    yield from _changes("made with", found.lock)
    if found.routing is not None:
        yield from _routing(found.routing)


def _changes(title: str, changes: Sequence[Change]) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid
    from ni_framework.recipe.parsing.wording import printable, shortened

    def cell(value: Any, absent: bool) -> str:
        return "absent" if absent else "null" if value is None else printable(shortened(str(value)))

    if not changes:
        yield f"\n{title}: no difference"
        return
    yield f"\n{title}"
    rows = [(of.key, of.a, of.only_in == "B", of.b, of.only_in == "A") for of in changes]
    cells = [(printable(shortened(key)), cell(a, no_a), cell(b, no_b)) for key, a, no_a, b, no_b in rows]
    yield Grid(("key", "A", "B"), cells, names=3)


def _parameters(changes: Sequence[ParameterChange], equal: int) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid
    from ni_framework.recipe.parsing.wording import printable, shortened

    yield f"\nparameters: {len(changes):,} tensors differ, {equal:,} are equal"
    if not changes:
        return
    shown = sorted(changes, key=lambda of: math.inf if of.change is None else of.change, reverse=True)[:SHOWN]
    rows = [
        (
            printable(shortened(of.name)),
            _shape(of.shape_a),
            _shape(of.shape_b),
            _norm(of.change),
            _functions(of.functions),
        )
        for of in changes
        if of in shown
    ]
    yield Grid(("tensor", "A", "B", "change", "functions"), rows, names=5)
    if len(changes) > len(shown):
        yield f"and {len(changes) - len(shown):,} that changed less; --json has all"


def _shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"


def _norm(change: float | None) -> str:
    return "" if change is None else "from 0" if math.isinf(change) else f"{change:.2%}"


def _functions(functions: Sequence[FunctionChange]) -> str:
    """Those that differ, each with how much, and which only one side has."""
    both = [of for of in functions if of.only_in is None]
    told = [f"{of.name} {_norm(of.change)}" for of in both[:FUNCTIONS]]
    told += [f"{len(both) - FUNCTIONS:,} more"] if len(both) > FUNCTIONS else []
    if others := [of for of in functions if of.only_in is not None]:
        names = others[0].name if len(others) == 1 else f"{others[0].name} to {others[-1].name}"
        told.append(f"{names} only in {others[0].only_in}")
    return ", ".join(told)


def _routing(routing: Moved) -> Iterator[str | Grid]:
    elements = "all elements" if routing.elements == "all" else "elements of the input"
    yield f"\nrouting, {elements} of {routing.samples} {routing.inputs}: who takes most, A (rows) to B (columns)"
    for script in routing.scripts:
        for number, iteration in enumerate(script.iterations):
            yield f"{script.name}, iteration {number}: {iteration.moved:.1%} of {iteration.elements:,} elements moved"
            yield from _moves(iteration)


def _moves(iteration: Iteration) -> Iterator[Grid]:
    from ni_framework.cli.tables import Grid

    matrix = iteration.matrix
    rows, columns = ([*(f"f{number}" for number in range(size - 1)), "none"] for size in (len(matrix), len(matrix[0])))
    if max(len(rows), len(columns)) <= FUNCTIONS + 1:
        counts = [(name, *(f"{count:,}" for count in row)) for name, row in zip(rows, matrix, strict=True)]
        yield Grid(("", *columns), counts)
        return
    pairs = [(count, rows[one], columns[other]) for one, row in enumerate(matrix) for other, count in enumerate(row)]
    largest = sorted((of for of in pairs if of[0] and of[1] != of[2]), key=lambda of: -of[0])[:MOVES]
    yield Grid(("from", "to", "elements"), [(one, other, f"{count:,}") for count, one, other in largest], names=2)
