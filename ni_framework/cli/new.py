"""`ni new`: writes a recipe to start from."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ni_framework.cli.output import emit, json_option


@click.group("new")
def command() -> None:
    """Write a recipe to start from."""


@command.command("recipe")
@click.argument("path", default="recipe.yaml")
@json_option
def recipe(path: str, as_json: bool) -> None:
    """Write a commented recipe to PATH (default: recipe.yaml). It describes an interpreter for the digits, ready to train.

    All other keys of a recipe are included as comments with their default values.
    """
    from ni_framework.errors import UsageError
    from ni_framework.recipe.export.starter import render_starter_recipe

    recipe_path = Path(path)
    if not recipe_path.parent.is_dir():
        raise UsageError(f"{recipe_path.parent}: is not a folder; create it first, or name another PATH")
    text = render_starter_recipe(path)
    try:
        with open(recipe_path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{recipe_path}: exists already and was not changed; name another PATH") from None
    quoted_path = shlex.quote(path)
    emit({"recipe": path}, f"{path}\nnext: ni check {quoted_path}, then ni train {quoted_path}", as_json)
