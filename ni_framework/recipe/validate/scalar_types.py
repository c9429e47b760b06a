"""The last step of reading a scalar: whether the value of a node has the type that its key declares.

`parsing/scalars.py` has decided before, from the text alone and without the schema, that `3` is a whole number and `no` is
text. This module compares that value with the declared type. It rounds, truncates, guesses and converts nothing, except
that a whole number is accepted where a number is declared.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from ni_framework.recipe.parsing.nodes import ScalarNode
from ni_framework.recipe.parsing.wording import join_with_or, suggest_word
from ni_framework.recipe.validate.fields import is_named_by_use

BROKEN: Any = type("Broken", (), {"__repr__": lambda self: "BROKEN"})()
"""Stands for a value whose problem is already recorded: nothing is built from it and nothing more is reported about it."""

_TYPE_PHRASES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    None: "null",
}


def convert_scalar(annotation: Any, node: ScalarNode) -> Any:
    """The value of a node as a scalar type; `BROKEN` if it has another type."""
    value = node.value
    if get_origin(annotation) is Literal:
        # The types are compared too, because True == 1 == 1.0.
        same = [known for known in get_args(annotation) if known == value and type(known) is type(value)]
        return same[0] if same else BROKEN
    if annotation is float and type(value) is int:
        return float(value)
    return value if type(value) is (type(None) if annotation is None else annotation) else BROKEN


def describe_types(annotations: tuple[Any, ...]) -> str:
    """What the recipe must give for any of these types, as in "a whole number or null"."""
    return join_with_or(dict.fromkeys(phrase for annotation in annotations for phrase in _phrases_for_type(annotation)))


def _phrases_for_type(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [f"'{known}'" if isinstance(known, str) else str(known) for known in get_args(annotation)]
    if annotation in _TYPE_PHRASES:
        return [_TYPE_PHRASES[annotation]]
    if is_named_by_use(annotation):
        return ["a name", "a mapping with `use`"]
    return ["a list" if get_origin(annotation) is tuple else "a mapping"]


def suggest_fix(annotations: tuple[Any, ...], node: ScalarNode) -> str | None:
    """What was probably meant by a value of the wrong type; None if there is no good guess."""
    value = node.value
    literals = [known for item in annotations if get_origin(item) is Literal for known in get_args(item)]
    if isinstance(value, str):
        if hint := suggest_word(value, [known for known in literals if isinstance(known, str)]):
            return hint
        if value == "auto" and type(None) in annotations:
            return "remove the key"
        bare = value.strip().replace("_", "")
        if bool in annotations and value.lower() in ("yes", "no", "on", "off", "y", "n", "true", "false"):
            return "write `true` or `false`, without quotes"
        if {int, float} & {*annotations} and _looks_numeric(bare):
            return "remove the quotes" if node.quoted and bare == value else f"write `{bare}`"
    elif str in annotations or any(isinstance(known, str) for known in literals):
        return "put it in quotes to make it text" if str in annotations and node.text else None
    elif int in annotations and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return f"write `{int(value)}`"
    return None


def _looks_numeric(text: str) -> bool:
    return text.isascii() and text.lstrip("+-").replace(".", "", 1).isdigit()
