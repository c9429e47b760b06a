"""`ni ls`: lists the installed components from their metadata, and with --load checks them."""

from __future__ import annotations

from typing import Any

import click

from ni_framework.cli.output import emit, format_table, json_option, print_status


@click.command("ls")
@click.option("--load", is_flag=True, help="Also import every component, run its checks and print what it does.")
@json_option
def command(load: bool, as_json: bool) -> None:
    """List the installed components and listeners (`hooks`) by kind. Nothing is imported without --load.

    With --load, every component is imported and checked as by `ni plugin test`.

    The column `remark` explains why an entry is never used: its name is reserved or malformed, or NI_PLUGINS does not allow it.
    """
    from ni_framework.registry import installed_catalog
    from ni_framework.registry.describe import describe_metadata, describe_or_fault

    documents = {
        entry: (describe_or_fault if load else describe_metadata)(entry) for entry in installed_catalog().entries
    }
    columns = ["kind", "name", "distribution", "version"]
    if load:
        from ni_framework.options import COMPONENT_KINDS
        from ni_framework.testing.report import check_components

        loadable = [
            entry
            for entry, document in documents.items()
            if document["status"] == "ok" and entry.kind in COMPONENT_KINDS
        ]
        reports = check_components(loadable, lambda label: print_status(f"checking {label} ..."))
        summaries = {report.entry: report.summary for report in reports}
        for entry, document in documents.items():
            document["conformance"] = summaries.get(entry, "")
        columns += ["api", "status", "conformance", "summary"]
    columns += ["remark"] if any(document["remark"] for document in documents.values()) else []
    rows = [tuple(_format_cell(document[column]) for column in columns) for document in documents.values()]
    emit(list(documents.values()), format_table(rows, tuple(columns)), as_json)


def _format_cell(value: Any) -> str:
    return "" if value is None else str(value)
