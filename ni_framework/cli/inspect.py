"""`ni inspect`: prints the functions, the metrics and the origin of a trained model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ni_framework.cli.output import emit, json_option, print_status

if TYPE_CHECKING:
    from ni_framework.analysis.inspect import CheckpointReport, FunctionReport, ScriptReport
    from ni_framework.cli.tables import Grid

# A script with more functions than this is shown in part: the first functions, the most and least used, and near duplicates.
MAX_INSPECT_FUNCTIONS = 24
# How many functions are shown for each of these reasons.
FUNCTIONS_PER_GROUP = 6
# The distance matrix of more functions does not fit on a screen.
MAX_MATRIX_FUNCTIONS = 12


@click.command("inspect")
@click.argument("checkpoint")
@click.option(
    "--samples", type=click.IntRange(min=1), metavar="N", help="Measure on N held-out samples (default: all)."
)
@json_option
def command(checkpoint: str, samples: int | None, as_json: bool) -> None:
    """Show the functions, the metrics and the origin of CHECKPOINT, which is a checkpoint or a run folder.

    The use of functions and the metrics are measured on held-out data. If the data are not available, the rest is shown.
    """
    import attrs

    from ni_framework.analysis.inspect import inspect_checkpoint
    from ni_framework.cli.tables import render_blocks

    inspection = inspect_checkpoint(checkpoint, samples)
    for reason in inspection.left_out:
        print_status(f"not measured: {reason}")
    emit(attrs.asdict(inspection), "" if as_json else render_blocks([*_inspection_blocks(inspection)]), as_json)


def _inspection_blocks(inspection: CheckpointReport) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid

    yield (
        f"{inspection.checkpoint}: {inspection.recipe}, step {inspection.step:,} after {inspection.seconds:,.0f} s, "
        f"{inspection.parameters:,} parameters, {inspection.weights} weights"
    )
    if inspection.metrics is not None:
        yield f"\nheld out, {inspection.samples:,} samples"
        yield Grid(("metric", "value"), [(name, f"{value:.4f}") for name, value in inspection.metrics.items()])
    for script in inspection.scripts:
        yield from _script_blocks(script)
    golden_result = "outputs differ from when saved" if inspection.golden_differences else "same outputs as when saved"
    yield f"\ngolden batch of {inspection.golden_samples} samples: {golden_result}"
    yield from (f"  {difference}" for difference in inspection.golden_differences)
    yield "\nmade with"
    yield from _lockfile_grids(inspection.lock)


def _script_blocks(script: ScriptReport) -> Iterator[str | Grid]:
    from ni_framework.cli.tables import Grid

    yield f"\n{script.name}: {len(script.functions):,} functions x {script.iterations} iterations"
    yield from _outlier_lines(script.functions)
    displayed = select_functions(script.functions)
    if len(displayed) < len(script.functions):
        yield f"{len(displayed)} of them: the first, the most and least used, and those nearest to another; --json has all"
    yield _function_grid(displayed)
    uses = [(function.name, function.use) for function in displayed if function.use is not None]
    if uses and script.iterations > 1:
        yield "use by iteration"
        header = ("function", *(str(number) for number in range(script.iterations)))
        yield Grid(header, [(name, *map(_format_share, use.by_iteration)) for name, use in uses])
    if uses and len(uses[0][1].by_task) > 1:
        yield "use by task"
        yield Grid(
            ("function", *uses[0][1].by_task), [(name, *map(_format_share, use.by_task.values())) for name, use in uses]
        )
    if 1 < len(script.functions) <= MAX_MATRIX_FUNCTIONS:
        yield "distances of signatures (1 - cos)"
        names = [function.name for function in script.functions]
        rows = zip(names, script.signature_distances, strict=True)
        yield Grid(("", *names), [(name, *(f"{value:.3f}" for value in row)) for name, row in rows])


def _function_grid(functions: Sequence[FunctionReport]) -> Grid:
    from ni_framework.cli.tables import Grid

    header = ("function", "", "use", "open", "nearest", "by signature", "by code")
    rows = [_function_row(function) for function in functions]
    if any(function.gate is not None for function in functions):
        header = (*header, "gate")
        gates = ["" if function.gate is None else f"{function.gate:.3f}" for function in functions]
        rows = [(*row, gate) for row, gate in zip(rows, gates, strict=True)]
    return Grid(header, rows, num_name_columns=2)


def _outlier_lines(functions: Sequence[FunctionReport]) -> Iterator[str]:
    """Lists the dead functions and the twins."""
    if dead := [function.name for function in functions if function.use is not None and function.use.dead]:
        yield f"dead: {_join_names(dead)}"
    order = {function.name: number for number, function in enumerate(functions)}
    pairs = [
        f"{function.name} and {twin}"
        for function in functions
        for twin in function.twins
        if order[function.name] < order[twin]
    ]
    if pairs:
        yield f"twins: {_join_names(pairs)}"


def _join_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_INSPECT_FUNCTIONS:,} more" if len(names) > MAX_INSPECT_FUNCTIONS else ""
    return ", ".join(names[:MAX_INSPECT_FUNCTIONS]) + more


def select_functions(functions: Sequence[FunctionReport]) -> list[FunctionReport]:
    """Selects as many functions as fit on a screen: the first, the most and least used, and those nearest to another."""
    if len(functions) <= MAX_INSPECT_FUNCTIONS:
        return list(functions)
    by_use = sorted(functions, key=lambda function: 0.0 if function.use is None else function.use.overall)
    # 2 is the largest possible distance.
    by_distance = sorted(
        functions, key=lambda function: 2.0 if function.nearest is None else function.nearest.signature_distance
    )
    selected = [*functions[:FUNCTIONS_PER_GROUP], *by_distance[:FUNCTIONS_PER_GROUP]]
    if by_use[0].use is not None:
        selected += [*by_use[:FUNCTIONS_PER_GROUP], *by_use[-FUNCTIONS_PER_GROUP:]]
    names = {function.name for function in selected}
    return [function for function in functions if function.name in names]


def _function_row(function: FunctionReport) -> tuple[str, ...]:
    state = "dead" if function.use is not None and function.use.dead else "twin" if function.twins else ""
    use = (
        ("-", "-") if function.use is None else (_format_share(function.use.overall), _format_share(function.use.open))
    )
    nearest = function.nearest
    distances = (
        ("-", "-", "-")
        if nearest is None
        else (nearest.function, f"{nearest.signature_distance:.3g}", f"{nearest.code_distance:.3g}")
    )
    return function.name, state, *use, *distances


def _format_share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _lockfile_grids(lock: dict[str, Any]) -> Iterator[Grid]:
    from ni_framework.checkpoint.lockfile import locked_components
    from ni_framework.cli.tables import Grid
    from ni_framework.recipe.parsing.wording import escape_unprintable

    versions = [
        (name, escape_unprintable(str(lock.get(name)))) for name in ("framework", "torch", "deepspeed", "python")
    ]
    yield Grid(("what", "version"), versions, num_name_columns=2)
    rows = [
        (key, f"{component.kind} {component.name}", component.distribution, component.version)
        for key, component in locked_components(lock).items()
    ]
    yield Grid(("key", "component", "distribution", "version"), rows, num_name_columns=4)
    data = lock.get("data")
    if isinstance(data, dict):
        rows = [
            (
                escape_unprintable(split),
                escape_unprintable(str(fingerprint.get("samples"))),
                escape_unprintable(str(fingerprint.get("sha256")))[:12],
            )
            for split, fingerprint in data.items()
            if isinstance(fingerprint, dict)
        ]
        yield Grid(("data", "samples", "sha256"), rows)
