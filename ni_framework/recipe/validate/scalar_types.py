"""Single values, strictly: nothing is rounded, cut, guessed or converted except a whole number given for a number."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from ni_framework.recipe.parsing.nodes import ScalarNode
from ni_framework.recipe.parsing.wording import either, suggestion
from ni_framework.recipe.validate.fields import is_choice

BROKEN: Any = type("Broken", (), {"__repr__": lambda self: "BROKEN"})()
"""Stands for a value whose problem is noted, so that nothing is built from it and nothing more is said about it."""

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    None: "null",
}


def plain(annotation: Any, node: ScalarNode) -> Any:
    """The value as a plain type reads it, `BROKEN` where it is of another."""
    value = node.value
    if get_origin(annotation) is Literal:
        # By type too, because True == 1 == 1.0.
        same = [known for known in get_args(annotation) if known == value and type(known) is type(value)]
        return same[0] if same else BROKEN
    if annotation is float and type(value) is int:
        return float(value)
    return value if type(value) is (type(None) if annotation is None else annotation) else BROKEN


def expected(annotations: tuple[Any, ...]) -> str:
    """What the recipe must give for any of these types, as in "a whole number or null"."""
    return either(dict.fromkeys(word for annotation in annotations for word in _expected(annotation)))


def _expected(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [f"'{known}'" if isinstance(known, str) else str(known) for known in get_args(annotation)]
    if annotation in _WORDS:
        return [_WORDS[annotation]]
    if is_choice(annotation):
        return ["a name", "a mapping with `use`"]
    return ["a list" if get_origin(annotation) is tuple else "a mapping"]


def advice(annotations: tuple[Any, ...], node: ScalarNode) -> str | None:
    """What was probably meant by a value of the wrong type, None where nothing suggests itself."""
    value = node.value
    literals = [known for item in annotations if get_origin(item) is Literal for known in get_args(item)]
    if isinstance(value, str):
        if hint := suggestion(value, [known for known in literals if isinstance(known, str)]):
            return hint
        if value == "auto" and type(None) in annotations:
            return "leave the key out"
        bare = value.strip().replace("_", "")
        if bool in annotations and value.lower() in ("yes", "no", "on", "off", "y", "n", "true", "false"):
            return "write `true` or `false`, without quotes"
        if {int, float} & {*annotations} and _is_number(bare):
            return "leave the quotes out" if node.quoted and bare == value else f"write `{bare}`"
    elif str in annotations or any(isinstance(known, str) for known in literals):
        return "put it in quotes to make it text" if str in annotations and node.text else None
    elif int in annotations and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return f"write `{int(value)}`"
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.lstrip("+-").replace(".", "", 1).isdigit()
