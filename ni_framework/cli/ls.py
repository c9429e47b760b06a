"""`ni ls`: what is installed, from metadata alone; with --load, whether it works."""

from __future__ import annotations

from typing import Any

import click

from ni_framework.cli.output import emit, json_option, table


@click.command("ls")
@click.option("--load", is_flag=True, help="Import each of them, and say whether it is in order and what it does.")
@json_option
def command(load: bool, as_json: bool) -> None:
    """List the installed components and listeners (`hooks`) by kind. Nothing is imported without --load.

    A remark says why one is never used: its name is reserved or badly formed, or NI_PLUGINS does not allow it.
    """
    from ni_framework.registry import installed
    from ni_framework.registry.describe import listed, loaded

    documents = [(loaded if load else listed)(entry) for entry in installed().entries]
    columns = ["kind", "name", "distribution", "version"]
    columns += ["api", "status", "summary"] if load else []
    columns += ["remark"] if any(document["remark"] for document in documents) else []
    rows = [tuple(_cell(document[column]) for column in columns) for document in documents]
    emit(documents, table(rows, tuple(columns)), as_json)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
