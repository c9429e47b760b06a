"""`ni ls`: what is installed, from metadata alone."""

from __future__ import annotations

import attrs
import click

from ni_framework.cli.output import emit, json_option, table


@click.command("ls")
@json_option
def command(as_json: bool) -> None:
    """List the installed components by kind. Nothing is imported."""
    from ni_framework.registry import installed

    entries = installed().entries
    rows = [(entry.kind, entry.name, entry.distribution, entry.version) for entry in entries]
    document = [attrs.asdict(entry) for entry in entries]
    emit(document, table(rows, ("kind", "name", "distribution", "version")), as_json)
