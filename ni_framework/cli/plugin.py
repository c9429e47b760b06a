"""`ni plugin`: begin one, and try one."""

from __future__ import annotations

from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option, narrate
from ni_framework.options import KINDS


@click.group("plugin")
def command() -> None:
    """Begin a plugin, or try one."""


@command.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="What kind of component to begin with.")
@click.option("--from", "source", metavar="FILE", help="Begin with the components in a Python file instead.")
@json_option
def new(name: str, kind: str | None, source: str | None, as_json: bool) -> None:
    """Write a whole distribution, ./ni-NAME: it installs with pip and passes its own tests as it is.

    A working component, a test of all that the contract asks of it, a recipe that trains with it on the digits, and what a
    package needs.
    """
    from ni_framework.scaffold.write import write_plugin

    folder = write_plugin(name, kind, Path(source) if source else None, Path())
    emit({"folder": str(folder)}, f"{folder}", as_json)
    narrate(f"next: pip install -e ./{folder}, then ni plugin test {folder} and ni train {folder}/recipes/*.yaml")


@command.command("test")
@click.argument("name", required=False)
@json_option
def test(name: str | None, as_json: bool) -> None:
    """Try what the contract asks of a component: NAME is a component (swirl, body/swirl) or a distribution (ni-swirl).

    Without NAME, everything that is installed. Ends with exit code 5 if a check fails.
    """
    from ni_framework.testing.report import reports
    from ni_framework.testing.selection import selected

    found = reports(selected(name), lambda label: narrate(f"trying {label} ..."))
    lines = [line for of in found for line in of.lines]
    emit([of.document for of in found], "\n".join(lines), as_json)
    if failed := [of.label for of in found if of.failed]:
        narrate(f"error: {len(failed)} of {len(found)} do not conform: {', '.join(failed)}")
        raise click.exceptions.Exit(5)  # no error document: the result is one already
