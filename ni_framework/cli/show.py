"""`ni show`: prints a complete recipe, or describes a component."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ni_framework.cli.output import emit, format_bytes, format_table, json_option, overrides_argument

if TYPE_CHECKING:
    from ni_framework.model.summary import SummaryRow

# Weights are fp32, whatever the precision of the forward pass.
BYTES_PER_WEIGHT = 4


@click.command("show")
@click.argument("target", metavar="RECIPE|COMPONENT")
@overrides_argument
@json_option
def command(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show RECIPE completely, with all defaults, and a table of the model's parameters.

    Or show COMPONENT (`kernel`, or `router/kernel`): what it does, the distribution it comes from, its options, and whether
    it meets the plugin contract.
    """
    if Path(target).suffix in (".yaml", ".yml") or Path(target).exists():
        _show_recipe(target, overrides, as_json)
    else:
        _show_component(target, overrides, as_json)


def _show_recipe(path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from ni_framework.model.summary import summarize_model
    from ni_framework.recipe import dump
    from ni_framework.registry import load_recipe

    recipe = load_recipe(path, overrides)
    description = summarize_model(recipe)
    tables = (
        _format_size_table("part", description.module_rows),
        _format_size_table("tensor", description.tensor_rows),
    )
    text = "\n\n".join((f"{dump(recipe)}\n# {description.one_line}", *tables))
    document = {
        "recipe": dump(recipe),
        "parameters": [{"name": name, "shape": list(shape)} for name, shape in description.parameters],
        "sizes": description.sizes,
    }
    emit(document, text, as_json)


def _format_size_table(what: str, rows: list[SummaryRow]) -> str:
    """Returns a table of the sizes of modules or tensors."""
    lines = [(what, "parameters", "fp32", "times", "each", "shape" if rows and rows[0].shape is not None else "")]
    for row in rows:
        shape = "" if row.shape is None else "x".join(map(str, row.shape)) or "scalar"
        numbers = (
            f"{row.total_numel:,}",
            format_bytes(BYTES_PER_WEIGHT * row.total_numel),
            str(row.repeats),
            f"{row.numel:,}",
        )
        lines.append((row.name, *numbers, shape))
    name, *numbers, shape = zip(*lines, strict=True)
    numbers = [[cell.rjust(max(map(len, column))) for cell in column] for column in numbers]
    return format_table(list(zip(name, *numbers, shape, strict=True)))


def _show_component(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from ni_framework.errors import UsageError
    from ni_framework.registry.describe import describe_component

    if overrides:
        raise UsageError(
            f"{target} is a component, and overrides ({overrides[0]}) change recipes; name a recipe instead"
        )
    documents = describe_component(target)

    from ni_framework.testing.report import check_components
    from ni_framework.testing.selection import select_entries

    reports_by_component = {
        (report.entry.kind, report.entry.name): report for report in check_components(select_entries(target))
    }
    texts = []
    for document in documents:
        rows = [(option["name"], option["type"], option["default"], option["help"]) for option in document["options"]]
        options = format_table(rows, ("option", "type", "default", "what it does")) if rows else "no options"
        origin = f"{document['distribution']} {document['version']} ({document['source']})"
        head = f"{document['kind']} {document['name']}, from {origin}\nAPI {document['api']}, {document['file']}"
        report = reports_by_component[document["kind"], document["name"]]
        document["conformance"] = report.summary
        conformance = "\n  ".join([f"conformance: {report.summary}", *report.failure_lines])
        texts.append(f"{head}\n\n{document['doc']}\n\n{options}\n\n{conformance}")
    emit(documents, "\n\n".join(texts), as_json)
