"""`ni check`: is this recipe in order?"""

from __future__ import annotations

import click

from ni_framework.cli.output import emit, json_option, overrides_argument


@click.command("check")
@click.argument("recipe")
@overrides_argument
@json_option
def command(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPE: its keys and values, its components and their options, and whether the sizes fit together.

    Opens no data and takes no memory for the model, whatever its size. All problems are shown at once.
    """
    from ni_framework.registry import load_recipe

    checked = load_recipe(recipe, overrides)

    from ni_framework.model.summary import describe

    description = describe(checked)
    emit({"recipe": recipe, "ok": True} | description.sizes, f"{recipe}: ok, {description.summary}", as_json)
