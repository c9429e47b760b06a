"""`ni ls`: what is installed, from metadata alone; with --load, whether it works."""

from __future__ import annotations

from typing import Any

import click

from ni_framework.cli.output import emit, json_option, narrate, table


@click.command("ls")
@click.option("--load", is_flag=True, help="Import each of them, and say whether it is in order and what it does.")
@json_option
def command(load: bool, as_json: bool) -> None:
    """List the installed components and listeners (`hooks`) by kind. Nothing is imported without --load.

    With it each is imported and tried as `ni plugin test` does.

    A remark says why one is never used: its name is reserved or badly formed, or NI_PLUGINS does not allow it.
    """
    from ni_framework.registry import installed
    from ni_framework.registry.describe import listed, loaded

    documents = {entry: (loaded if load else listed)(entry) for entry in installed().entries}
    columns = ["kind", "name", "distribution", "version"]
    if load:
        from ni_framework.options import KINDS
        from ni_framework.testing.report import reports

        sound = [entry for entry, of in documents.items() if of["status"] == "ok" and entry.kind in KINDS]
        found = {of.entry: of.summary for of in reports(sound, lambda label: narrate(f"trying {label} ..."))}
        for entry, document in documents.items():
            document["conformance"] = found.get(entry, "")
        columns += ["api", "status", "conformance", "summary"]
    columns += ["remark"] if any(document["remark"] for document in documents.values()) else []
    rows = [tuple(_cell(document[column]) for column in columns) for document in documents.values()]
    emit(list(documents.values()), table(rows, tuple(columns)), as_json)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
