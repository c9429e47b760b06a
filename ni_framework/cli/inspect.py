"""`ni inspect`: what is a trained model made of?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ni_framework.cli.output import emit, json_option, narrate

if TYPE_CHECKING:
    from ni_framework.analysis.inspect import Function, Inspection, ScriptSeen
    from ni_framework.cli.tables import Grid

WHOLE = 24  # functions of a script that are all shown; of more, so many: the first, and those that stand out
FEW = 6  # of each kind of these
MATRIX = 12  # functions of which the distances fit on a screen


@click.command("inspect")
@click.argument("checkpoint")
@click.option(
    "--samples", type=click.IntRange(min=1), metavar="N", help="Measure on N of the held-out samples (default: all)."
)
@json_option
def command(checkpoint: str, samples: int | None, as_json: bool) -> None:
    """Show what CHECKPOINT (a checkpoint or a run folder) is made of: its functions, its figures and its origin.

    Use and metrics are measured on the held-out part of its data; where the data are not there, the rest is shown.
    """
    import attrs

    from ni_framework.analysis.inspect import inspect_checkpoint
    from ni_framework.checkpoint.run_dir import find_checkpoint
    from ni_framework.cli.tables import rendered

    found = inspect_checkpoint(find_checkpoint(checkpoint), samples)
    for reason in found.left_out:
        narrate(f"not measured: {reason}")
    emit(attrs.asdict(found), "" if as_json else rendered([*_parts(found)]), as_json)


def _parts(found: Inspection) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid

    yield (
        f"{found.checkpoint}: {found.recipe}, step {found.step:,} after {found.seconds:,.0f} s, "
        f"{found.parameters:,} parameters, {found.weights} weights"
    )
    if found.metrics is not None:
        yield f"\nheld out, {found.samples:,} samples"
        yield Grid(("metric", "value"), [(name, f"{value:.4f}") for name, value in found.metrics.items()])
    for script in found.scripts:
        yield from _of_script(script)
    yield f"\ngolden batch of {found.golden_samples} samples: the model " + (
        "answers as it did" if not found.golden_differences else "answers otherwise"
    )
    yield from (f"  {difference}" for difference in found.golden_differences)
    yield "\nmade with"
    yield from _of_lock(found.lock)


def _of_script(script: ScriptSeen) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid

    yield f"\n{script.name}: {len(script.functions):,} functions x {script.iterations} iterations"
    yield from _standing_out(script.functions)
    shown = shown_of(script.functions)
    if len(shown) < len(script.functions):
        yield f"{len(shown)} of them: the first, those used most and least, and those nearest to another; --json has all"
    header, rows = ("function", "", "use", "open", "nearest", "by signature", "by code"), [_row(of) for of in shown]
    if any(of.gate is not None for of in shown):
        header = (*header, "gate")
        rows = [(*row, "" if of.gate is None else f"{of.gate:.3f}") for row, of in zip(rows, shown, strict=True)]
    yield Grid(header, rows, names=2)
    if (uses := [(of.name, of.use) for of in shown if of.use is not None]) and script.iterations > 1:
        yield "use by iteration"
        header = ("function", *(str(number) for number in range(script.iterations)))
        yield Grid(header, [(name, *map(_share, use.by_iteration)) for name, use in uses])
    if uses and len(uses[0][1].by_task) > 1:
        yield "use by task"
        yield Grid(
            ("function", *uses[0][1].by_task), [(name, *map(_share, use.by_task.values())) for name, use in uses]
        )
    if 1 < len(script.functions) <= MATRIX:
        yield "distances of signatures (1 - cos)"
        names = [of.name for of in script.functions]
        rows = zip(names, script.signature_distances, strict=True)
        yield Grid(("", *names), [(name, *(f"{value:.3f}" for value in row)) for name, row in rows])


def _standing_out(functions: Sequence[Function]) -> Iterator[str]:
    """Which functions are dead, and which are twins."""
    if dead := [of.name for of in functions if of.use is not None and of.use.dead]:
        yield f"dead: {_listed(dead)}"
    order = {of.name: number for number, of in enumerate(functions)}
    if pairs := [(of.name, twin) for of in functions for twin in of.twins if order[of.name] < order[twin]]:
        yield f"twins: {_listed([f'{one} and {other}' for one, other in pairs])}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - WHOLE:,} more" if len(names) > WHOLE else ""
    return ", ".join(names[:WHOLE]) + more


def shown_of(functions: Sequence[Function]) -> list[Function]:
    """Those of many functions that a screen has room for: the first, the most and least used, and the nearest to another."""
    if len(functions) <= WHOLE:
        return list(functions)
    used = sorted(functions, key=lambda of: 0.0 if of.use is None else of.use.overall)
    near = sorted(functions, key=lambda of: 2.0 if of.nearest is None else of.nearest.signature_distance)
    most = [] if used[0].use is None else [*used[:FEW], *used[-FEW:]]
    names = {of.name for of in (*functions[:FEW], *most, *near[:FEW])}
    return [of for of in functions if of.name in names]


def _row(of: Function) -> tuple[str, ...]:
    state = "dead" if of.use is not None and of.use.dead else "twin" if of.twins else ""
    use = ("-", "-") if of.use is None else (_share(of.use.overall), _share(of.use.open))
    near = of.nearest
    far = (
        ("-", "-", "-")
        if near is None
        else (near.function, *map(_apart, (near.signature_distance, near.code_distance)))
    )
    return of.name, state, *use, *far


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"


def _apart(distance: float) -> str:
    return f"{distance:.3g}"


def _of_lock(lock: dict[str, Any]) -> Iterator[Grid]:
    from ni_framework.checkpoint.lockfile import locked
    from ni_framework.cli.tables import Grid
    from ni_framework.recipe.parsing.wording import printable

    versions = [(name, printable(str(lock.get(name)))) for name in ("framework", "torch", "deepspeed", "python")]
    yield Grid(("what", "version"), versions, names=2)
    rows = [(path, f"{of.kind} {of.name}", of.distribution, of.version) for path, of in locked(lock).items()]
    yield Grid(("key", "component", "distribution", "version"), rows, names=4)
    data = lock.get("data")
    if isinstance(data, dict):
        prints = [(part, of) for part, of in data.items() if isinstance(of, dict)]
        cells = [
            (printable(part), *(printable(str(of.get(key))) for key in ("samples", "sha256"))) for part, of in prints
        ]
        yield Grid(("data", "samples", "sha256"), [(part, samples, sha[:12]) for part, samples, sha in cells])
