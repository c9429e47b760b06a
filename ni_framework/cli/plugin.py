"""`ni plugin`: begin one, and try one."""

from __future__ import annotations

import click

from ni_framework.cli.output import emit, json_option, narrate


@click.group("plugin")
def command() -> None:
    """Begin a plugin, or try one."""


@command.command("test")
@click.argument("name", required=False)
@json_option
def test(name: str | None, as_json: bool) -> None:
    """Try what the contract asks of a component: NAME is a component (swirl, body/swirl) or a distribution (ni-swirl).

    Without NAME, everything that is installed. Ends with exit code 5 if a check fails.
    """
    from ni_framework.errors import ConformanceError
    from ni_framework.testing.report import report

    found = report(name, lambda label: narrate(f"trying {label} ..."))
    lines = [line for of in found for line in of.lines]
    emit([of.document for of in found], "\n".join(lines), as_json)
    if failed := [of.label for of in found if of.failed]:
        raise ConformanceError(f"{len(failed)} of {len(found)} do not conform: {', '.join(failed)}")
