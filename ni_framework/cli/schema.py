"""`ni schema`: what a recipe may hold, for editors and other tools."""

from __future__ import annotations

import json

import click

from ni_framework.cli.output import emit, json_option, narrate


@click.command("schema")
@json_option
def command(as_json: bool) -> None:
    """Print a JSON Schema (draft 2020-12) of recipes with all installed components.

    An editor that knows it completes keys and checks values while a recipe is written. What only code can tell (sizes that
    must suit each other) is told by ni check.
    """
    from ni_framework.registry.schema import installed_schema

    schema, faults = installed_schema()
    for fault in faults:
        narrate(f"left out: {fault}")
    emit(schema, json.dumps(schema, indent=2), as_json)
