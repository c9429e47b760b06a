"""`ni plugin`: creates a plugin, and runs the conformance checks."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option, print_status
from ni_framework.options import COMPONENT_KINDS


@click.group("plugin")
def command() -> None:
    """Create a plugin, or check one."""


@command.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(COMPONENT_KINDS), help="The kind of component that the plugin starts with.")
@click.option(
    "--from", "source", metavar="FILE", help="Start with the components in this Python file instead of an example."
)
@json_option
def new(name: str, kind: str | None, source: str | None, as_json: bool) -> None:
    """Write a complete distribution to ./ni-NAME, which can be installed with pip and passes its own tests.

    It contains a working component, a test of everything that the plugin contract requires, a recipe that trains with the
    component on the digits, and the files of a Python package.
    """
    from ni_framework.scaffold.write import write_plugin

    folder = write_plugin(name, kind, Path(source) if source else None, Path())
    emit({"folder": str(folder)}, f"{folder}", as_json)
    print_status(f"next: pip install -e ./{folder}, then ni plugin test {folder} and ni train {folder}/recipes/*.yaml")


@command.command("test")
@click.argument("name", required=False)
@json_option
def test(name: str | None, as_json: bool) -> None:
    """Check that components meet the plugin contract. NAME is a component (swirl, body/swirl) or a distribution (ni-swirl).

    Without NAME, all installed components are checked. The exit code is 5 if a check fails.
    """
    from ni_framework.testing.report import check_components
    from ni_framework.testing.selection import select_entries

    reports = check_components(select_entries(name), lambda label: print_status(f"checking {label} ..."))
    lines = [line for report in reports for line in report.lines]
    emit([report.document for report in reports], "\n".join(lines), as_json)
    if failed := [report.label for report in reports if report.has_failed]:
        print_status(f"error: {len(failed)} of {len(reports)} do not conform: {', '.join(failed)}")
        # There is no error document: with --json, the result has been printed as one already.
        raise click.exceptions.Exit(5)
