"""The starter recipe: the keys that a first recipe sets, and all other keys of the schema as comments with their defaults."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import attrs

from ni_framework.recipe.dump import format_flow, to_plain_values
from ni_framework.recipe.parsing.wording import escape_unprintable
from ni_framework.recipe.schema import Recipe
from ni_framework.recipe.validate.fields import Field, fields_of, is_config_type, union_members

STARTER_HEADER = """\
# A Neural Interpreter on real hand-written digits: a minute or two on two CPU cores, about 98 % of the held-out digits.
#
#   {check}check it, and print the size of the model
#   {train}train it
#   {show}print it with all defaults
#   {ls}list all components, and the options of one
#
# Lines that begin with # are defaults: remove the # to change them.
"""
STARTER_VALUES: Mapping[str, Any] = {
    "ni": 1,
    "seed": 0,
    "model": {
        "width": 80,
        "input": {"use": "patches", "image": [1, 8, 8], "patch": 2, "positions": "absolute"},
        "iterations": 4,
        "functions": 3,
        "code": 16,
        "type": 16,
        "router": {"use": "kernel", "truncation": 1.42, "bandwidth": 0.25},
        "body": {"use": "lines_of_code", "lines": 1, "heads": 4, "key": 16, "positions": "sep_sum"},
        "head": {"use": "classify", "label_smoothing": 0.1},
    },
    "data": {"use": "digits"},
    "train": {"steps": 2000, "batch": 32, "optimizer": {"lr": 5.0e-3, "weight_decay": 0.2}},
}
# Keys of the model that come before the keys of its scripts.
LEADING_MODEL_KEYS = ("width", "input", "scripts")
COMMENT_COLUMN, LINE_WIDTH = 32, 120


def render_starter_recipe(name: str) -> str:
    """The text of a recipe for the digits data set, to be written to a file of this name."""
    # Escaped, so that it stays on one line whatever characters the name has.
    path = escape_unprintable(shlex.quote(name))
    commands = {verb: f"ni {verb} {path}" for verb in ("check", "train", "show")} | {"ls": "ni ls, ni show kernel"}
    column = max(map(len, commands.values())) + 4
    header = STARTER_HEADER.format(**{verb: command.ljust(column) for verb, command in commands.items()})
    return header + "\n" + "\n".join(_render_config(Recipe, STARTER_VALUES, "")) + "\n"


def _render_config(cls: type, values: Mapping[str, Any], indent: str) -> Iterator[str]:
    """A line for each key of a config class, commented out if it has no value in `values`."""
    fields = fields_of(cls)
    for key in sorted(
        fields, key=lambda key: LEADING_MODEL_KEYS.index(key) if key in LEADING_MODEL_KEYS else len(LEADING_MODEL_KEYS)
    ):
        field = fields[key]
        value = values[key] if key in values else _default_value(field)
        prefix = indent if key in values else f"{indent}# "
        nested = next((item for item in union_members(field.annotation) if is_config_type(item)), None)
        if nested and isinstance(value, Mapping):
            yield from _lines_with_help(f"{prefix}{key}:", field)
            yield from _render_config(nested, value, f"{prefix}  ")
        else:
            yield from _lines_with_help(f"{prefix}{key}: {_format_inline(value)}", field)


def _default_value(field: Field) -> Any:
    if field.default_use is not None:
        return field.default_use
    assert field.attribute.default is not attrs.NOTHING, f"the starter recipe must set {field.attribute.name}"
    return to_plain_values(field.attribute.default)


def _format_inline(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_format_inline(item)}" for key, item in value.items()) + "}"
    return str(format_flow(value))


def _lines_with_help(code: str, field: Field) -> Iterator[str]:
    """A line of the recipe with its help text in a column to the right, which may continue on further lines."""
    code = f"{code}  ".ljust(COMMENT_COLUMN)
    yield from textwrap.wrap(
        f"{code}# {_help_text(field)}",
        LINE_WIDTH,
        subsequent_indent=" " * COMMENT_COLUMN + "# ",
        break_on_hyphens=False,
    )


def _help_text(field: Field) -> str:
    text = field.help or ""
    for item in union_members(field.annotation):
        if (
            get_origin(item) is Literal
            and len(get_args(item)) > 1
            and not all(str(literal) in text for literal in get_args(item))
        ):
            text += f" ({', '.join(map(str, get_args(item)))})"
    return text
