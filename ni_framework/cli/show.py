"""`ni show`: a recipe as it is understood, or what a component is and takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ni_framework.cli.output import emit, in_bytes, json_option, overrides_argument, table

if TYPE_CHECKING:
    from ni_framework.model.summary import Row

BYTES = 4  # of a number: weights are fp32 whatever the precision of the forward pass


@click.command("show")
@click.argument("target", metavar="RECIPE|COMPONENT")
@overrides_argument
@json_option
def command(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show RECIPE as it is understood: complete, with all defaults, and its table of parameters.

    Or show COMPONENT (`kernel`, or `router/kernel`): what it does, where it comes from, its options, and whether it has what
    the contract asks of it.
    """
    if Path(target).suffix in (".yaml", ".yml") or Path(target).exists():
        _show_recipe(target, overrides, as_json)
    else:
        _show_component(target, overrides, as_json)


def _show_recipe(path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from ni_framework.model.summary import describe
    from ni_framework.recipe import dump
    from ni_framework.registry import load_recipe

    recipe = load_recipe(path, overrides)
    description = describe(recipe)
    tables = (_sizes("part", description.parts), _sizes("tensor", description.tensors))
    text = "\n\n".join((f"{dump(recipe)}\n# {description.summary}", *tables))
    document = {
        "recipe": dump(recipe),
        "parameters": [{"name": name, "shape": list(shape)} for name, shape in description.parameters],
        "sizes": description.sizes,
    }
    emit(document, text, as_json)


def _sizes(what: str, rows: list[Row]) -> str:
    """How large parts or tensors are, one below the other."""
    lines = [(what, "parameters", "fp32", "times", "each", "shape" if rows and rows[0].shape is not None else "")]
    for row in rows:
        shape = "" if row.shape is None else "x".join(map(str, row.shape)) or "scalar"
        numbers = f"{row.total:,}", in_bytes(BYTES * row.total), str(row.times), f"{row.each:,}"
        lines.append((row.name, *numbers, shape))
    name, *numbers, shape = zip(*lines, strict=True)
    numbers = [[cell.rjust(max(map(len, column))) for cell in column] for column in numbers]
    return table(list(zip(name, *numbers, shape, strict=True)))


def _show_component(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from ni_framework.errors import UsageError
    from ni_framework.registry.describe import describe_component

    if overrides:
        raise UsageError(
            f"{target} is a component, and overrides ({overrides[0]}) change recipes; name a recipe instead"
        )
    documents = describe_component(target)

    from ni_framework.testing.report import reports
    from ni_framework.testing.selection import selected

    tried = {(of.entry.kind, of.entry.name): of for of in reports(selected(target))}
    texts = []
    for document in documents:
        rows = [(option["name"], option["type"], option["default"], option["help"]) for option in document["options"]]
        options = table(rows, ("option", "type", "default", "what it does")) if rows else "no options"
        origin = f"{document['distribution']} {document['version']} ({document['source']})"
        head = f"{document['kind']} {document['name']}, from {origin}\nAPI {document['api']}, {document['file']}"
        found = tried[document["kind"], document["name"]]
        document["conformance"] = found.summary
        conformance = "\n  ".join([f"conformance: {found.summary}", *found.failures])
        texts.append(f"{head}\n\n{document['doc']}\n\n{options}\n\n{conformance}")
    emit(documents, "\n\n".join(texts), as_json)
