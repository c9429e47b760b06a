"""Output of commands: results on stdout, status messages on stderr, and with --json only one document on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ni_framework.errors import Mark, ProblemsError
from ni_framework.utils.nonfinite_json import nonfinite_to_null

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")


def emit(document: Any, text: str, as_json: bool) -> None:
    """Prints a result as text or as JSON, in which numbers that are not finite become null."""
    click.echo(json.dumps(nonfinite_to_null(document), indent=2) if as_json else text)


def print_status(text: str, **style: Any) -> None:
    """Prints a message on stderr."""
    click.secho(text, err=True, **style)


def report_failure(error: Exception | str, exit_code: int, as_json: bool) -> int:
    """Prints an error on stderr, and with --json also as a document on stdout; returns `exit_code`."""
    text = str(error) if isinstance(error, ProblemsError) else f"error: {error}"
    sys.stdout.flush()
    print_status(text)
    if as_json:
        document: dict[str, Any] = {"exit_code": exit_code, "message": str(error)}
        if isinstance(error, ProblemsError):
            document["problems"] = [
                {"message": problem.message, "hint": problem.hint} | _mark_fields(problem.mark)
                for problem in error.problems
            ]
        click.echo(json.dumps({"error": document}, indent=2))
    return exit_code


def _mark_fields(mark: Mark | None) -> dict[str, Any]:
    if mark is None:
        return {}
    return {"source": mark.source, "column": mark.column} | ({"line": mark.line} if mark.numbered else {})


def format_table(rows: list[tuple[str, ...]], header: tuple[str, ...] = ()) -> str:
    """Returns rows as left-aligned columns, separated by two spaces so that programs can split them, too."""
    lines = [header, *rows] if header else rows
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))] if lines else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines
    )


def format_bytes(number: float | None) -> str:
    """Returns a number of bytes with three significant digits and a unit; "-" for 0 and None."""
    if not number:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
