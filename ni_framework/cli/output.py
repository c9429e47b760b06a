"""What goes where: results on stdout, narration on stderr, and with --json one document on stdout and nothing else."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ni_framework.errors import Mark, ProblemsError
from ni_framework.utils.nonfinite_json import finite

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")


def emit(document: Any, text: str, as_json: bool) -> None:
    """Prints a result in one of its two forms; what is not finite is null in JSON, which knows no such numbers."""
    click.echo(json.dumps(finite(document), indent=2) if as_json else text)


def narrate(text: str, **style: Any) -> None:
    """Says something on stderr."""
    click.secho(text, err=True, **style)


def fail(error: Exception | str, exit_code: int, as_json: bool) -> int:
    """Prints an error on stderr, with --json also as a document on stdout, and returns its exit code."""
    text = str(error) if isinstance(error, ProblemsError) else f"error: {error}"
    sys.stdout.flush()
    narrate(text)
    if as_json:
        document: dict[str, Any] = {"exit_code": exit_code, "message": str(error)}
        if isinstance(error, ProblemsError):
            document["problems"] = [
                {"message": problem.message, "hint": problem.hint} | _place(problem.mark) for problem in error.problems
            ]
        click.echo(json.dumps({"error": document}, indent=2))
    return exit_code


def _place(mark: Mark | None) -> dict[str, Any]:
    if mark is None:
        return {}
    return {"source": mark.source, "column": mark.column} | ({"line": mark.line} if mark.numbered else {})


def table(rows: list[tuple[str, ...]], header: tuple[str, ...] = ()) -> str:
    """Rows as left-aligned columns two blanks apart, for people and for `cut`."""
    lines = [header, *rows] if header else rows
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))] if lines else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines
    )


def in_bytes(number: float | None) -> str:
    """A size in memory with three digits and its unit; a dash for none."""
    if not number:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
