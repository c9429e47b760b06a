"""`ni schema`: prints a JSON Schema of recipes, for editors and other tools."""

from __future__ import annotations

import json

import click

from ni_framework.cli.output import emit, json_option, print_status


@click.command("schema")
@json_option
def command(as_json: bool) -> None:
    """Print a JSON Schema (draft 2020-12) of recipes that includes all installed components.

    An editor that uses it completes keys and checks values while a recipe is written. A schema cannot express some rules,
    such as sizes that must fit together; ni check checks these, too.
    """
    from ni_framework.registry.schema import installed_schema

    schema, faults = installed_schema()
    for fault in faults:
        print_status(f"skipped: {fault}")
    emit(schema, json.dumps(schema, indent=2), as_json)
