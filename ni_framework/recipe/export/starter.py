"""A recipe to start from: what a first one sets, and beside it all else that could be said, as the schema knows it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import attrs

from ni_framework.recipe.dump import flow, plain_values
from ni_framework.recipe.parsing.wording import printable
from ni_framework.recipe.schema import Recipe
from ni_framework.recipe.validate.fields import Field, fields_of, is_config, members

HEAD = """\
# A Neural Interpreter on real hand-written digits: a minute or two on two CPU cores, about 98 % of the held-out digits.
#
#   {check}is it in order, and how large is the model?
#   {train}train it
#   {show}the same with all defaults
#   {ls}all components, and the options of one
#
# Lines that begin with # are defaults: take the # away to change them.
"""
SET: Mapping[str, Any] = {
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
FIRST = ("width", "input", "scripts")  # of the model, before the keys of its scripts
COLUMN, WIDTH = 32, 120


def starter(name: str) -> str:
    """The text of a recipe for the digits, in a file of this name."""
    path = printable(shlex.quote(name))  # on one line, whatever a file may be called
    commands = {verb: f"ni {verb} {path}" for verb in ("check", "train", "show")} | {"ls": "ni ls, ni show kernel"}
    widest = max(map(len, commands.values())) + 4
    head = HEAD.format(**{verb: words.ljust(widest) for verb, words in commands.items()})
    return head + "\n" + "\n".join(_lines(Recipe, SET, "")) + "\n"


def _lines(cls: type, given: Mapping[str, Any], lead: str) -> Iterator[str]:
    """A line for each key of a config class, commented out where it is not given."""
    fields = fields_of(cls)
    for key in sorted(fields, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST)):
        field = fields[key]
        value = given[key] if key in given else _default(field)
        here = lead if key in given else f"{lead}# "
        nested = next((item for item in members(field.annotation) if is_config(item)), None)
        if nested and isinstance(value, Mapping):
            yield from _explained(f"{here}{key}:", field)
            yield from _lines(nested, value, f"{here}  ")
        else:
            yield from _explained(f"{here}{key}: {_shown(value)}", field)


def _default(field: Field) -> Any:
    if field.use is not None:
        return field.use
    assert field.attribute.default is not attrs.NOTHING, f"a recipe must say what {field.attribute.name} is"
    return plain_values(field.attribute.default)


def _shown(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return str(flow(value))


def _explained(code: str, field: Field) -> Iterator[str]:
    """The line with what it is for, in a column of its own."""
    code = f"{code}  ".ljust(COLUMN)
    words = textwrap.wrap(
        f"{code}# {_words(field)}", WIDTH, subsequent_indent=" " * COLUMN + "# ", break_on_hyphens=False
    )
    yield from words


def _words(field: Field) -> str:
    words = field.help or ""
    for item in members(field.annotation):
        if (
            get_origin(item) is Literal
            and len(get_args(item)) > 1
            and not all(str(it) in words for it in get_args(item))
        ):
            words += f" ({', '.join(map(str, get_args(item)))})"
    return words
