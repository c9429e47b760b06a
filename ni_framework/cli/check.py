"""`ni check`: checks a recipe without its data."""

from __future__ import annotations

import click

from ni_framework.cli.output import emit, json_option, overrides_argument


@click.command("check")
@click.argument("recipe")
@overrides_argument
@json_option
def command(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPE: its keys and values, its components and their options, and whether the sizes fit together.

    The check opens no data and allocates no memory for the model, whatever its size. It reports all problems at once.
    """
    from ni_framework.registry.check_cache import (
        compute_check_key,
        is_cacheable,
        read_cached_check,
        write_cached_check,
    )

    key = compute_check_key(recipe, overrides)
    result = read_cached_check(key) if key else None
    if result is None:
        from ni_framework.registry import load_recipe

        checked = load_recipe(recipe, overrides)

        # Imported only now, because it imports torch, which an invalid recipe does not need.
        from ni_framework.model.summary import summarize_model

        summary = summarize_model(checked)
        result = {"sizes": summary.sizes, "one_line": summary.one_line}
        if key and is_cacheable(checked):
            write_cached_check(key, result)
    emit({"recipe": recipe, "ok": True} | result["sizes"], f"{recipe}: ok, {result['one_line']}", as_json)
