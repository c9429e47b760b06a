"""A recipe as canonical YAML: every key in the schema's order, every default written out, every number exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from ni_framework.options import Choice
from ni_framework.recipe.parsing.scalars import meaning
from ni_framework.recipe.schema import Recipe
from ni_framework.recipe.validate.fields import Passed, fields_of

_WIDTH = 100
_LONGEST = 1000  # far below the longest line that is read
_PIECE = re.compile(
    r"(?:\\(?:x..|u.{4}|U.{8}|.)|[^\\]){1,200}"
)  # a part of text in double quotes, with its escapes whole
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")  # text that needs no quotes, unless it reads as something else


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, from which the same recipe is read again."""
    return dump_values(plain_values(recipe))


def dump_values(values: dict[str, Any]) -> str:
    """A mapping of plain values as YAML."""
    lines: list[str] = []
    _write(values, "", lines)
    return "\n".join(lines or ["{}"]) + "\n"


def plain_values(value: Any) -> Any:
    """A recipe or a part of one as mappings, lists and scalars alone."""
    if isinstance(value, Choice):
        return {"use": value.use, **plain_values(value.options)}
    if attrs.has(type(value)):
        keys = sorted(fields_of(type(value)), key=lambda name: name != "use")
        if isinstance(value, Passed):
            keys = [name for name in keys if getattr(value, name) is not None]
        return {name: plain_values(getattr(value, name)) for name in keys}
    if isinstance(value, Mapping):
        return {name: plain_values(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain_values(item) for item in value]
    return value


def _write(tree: dict[str, Any] | list[Any], indent: str, lines: list[str]) -> None:
    """Appends a mapping or a list that is not empty, one line for each part."""
    keyed = isinstance(tree, dict)
    leads = [f"{_text(key)}:" for key in tree] if keyed else ["-"] * len(tree)
    for lead, item in zip(leads, tree.values() if keyed else tree, strict=True):
        line = flow(item)
        fits = line is not None and len(indent) + len(lead) + 1 + len(line) <= _WIDTH
        if fits or not isinstance(item, dict | list):
            lines.append(f"{indent}{lead} {_folded(line, indent)}")
        elif lead == "-":
            start = len(lines)
            _write(item, f"{indent}  ", lines)
            lines[start] = f"{indent}- {lines[start][len(indent) + 2 :]}"
        else:
            lines.append(f"{indent}{lead}")
            _write(item, f"{indent}  ", lines)


def _folded(line: str | None, indent: str) -> str:
    """A scalar over several lines if it is very long; a text in double quotes goes on behind a backslash."""
    if line is None or len(line) <= _LONGEST:
        return str(line)
    pieces = _PIECE.findall(line)
    # A space at the start of a line counts only behind a backslash.
    return f"\\\n{indent}  ".join(f"\\{piece}" if n and piece[0] == " " else piece for n, piece in enumerate(pieces))


def flow(tree: Any) -> str | None:
    """A scalar, an empty collection or a list of scalars and such lists on one line; None for what needs more."""
    if isinstance(tree, dict):
        return None if tree else "{}"
    if isinstance(tree, list):
        items = [flow(item) for item in tree]
        return None if any(item is None for item in items) else f"[{', '.join(item for item in items if item)}]"
    if isinstance(tree, str):
        return _text(tree)
    if tree is None or isinstance(tree, bool):
        return {None: "null", True: "true", False: "false"}[tree]
    if isinstance(tree, int | float):
        return repr(tree)
    raise TypeError(f"a recipe cannot hold {tree!r}")


def _text(text: str) -> str:
    """Text without quotes where it can do without them, else in double quotes."""
    if len(text) <= _WIDTH and _PLAIN.fullmatch(text) and meaning(text) is text:
        return text
    return '"' + "".join(_character(character) for character in text) + '"'


def _character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return {"\n": "\\n", "\t": "\\t"}.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
