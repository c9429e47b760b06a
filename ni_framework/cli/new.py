"""`ni new`: something to start from."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option


@click.group("new")
def command() -> None:
    """Write something to start from."""


@command.command("recipe")
@click.argument("path", default="recipe.yaml")
@json_option
def recipe(path: str, as_json: bool) -> None:
    """Write a commented recipe to PATH (default: recipe.yaml): an interpreter for the embedded digits, ready to train.

    Whatever else a recipe can say stands beside it, commented out, with its default.
    """
    from ni_framework.errors import UsageError
    from ni_framework.recipe.export.starter import starter

    place = Path(path)
    if not place.parent.is_dir():
        raise UsageError(f"{place.parent}: is no folder; make it first, or name another PATH")
    text = starter(path)
    try:
        with open(place, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{place}: exists already and is left as it is; name another PATH") from None
    again = shlex.quote(path)
    emit({"recipe": path}, f"{path}\nnext: ni check {again}, then ni train {again}", as_json)
