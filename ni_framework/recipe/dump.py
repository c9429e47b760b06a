"""A recipe as canonical YAML: every key in the schema's order, every default written out, every number exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from ni_framework.options import ComponentSpec
from ni_framework.recipe.parsing.scalars import parse_plain_scalar
from ni_framework.recipe.schema import Recipe
from ni_framework.recipe.validate.fields import PassThroughConfig, fields_of

_WIDTH = 100
# Far below the longest line that is read.
_MAX_SCALAR_WIDTH = 1000
# A part of a double-quoted text; no escape is cut in two.
_TEXT_CHUNK = re.compile(r"(?:\\(?:x..|u.{4}|U.{8}|.)|[^\\]){1,200}")
# Text that needs no quotes, unless YAML reads it as something else.
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")


def dump(recipe: Recipe) -> str:
    """The recipe as YAML; reading it gives an equal recipe."""
    return dump_values(to_plain_values(recipe))


def dump_values(values: dict[str, Any]) -> str:
    """A mapping of plain values as YAML."""
    lines: list[str] = []
    _write_yaml_lines(values, "", lines)
    return "\n".join(lines or ["{}"]) + "\n"


def to_plain_values(value: Any) -> Any:
    """A recipe or a part of one as mappings, lists and scalars."""
    if isinstance(value, ComponentSpec):
        return {"use": value.use, **to_plain_values(value.options)}
    if attrs.has(type(value)):
        keys = sorted(fields_of(type(value)), key=lambda name: name != "use")
        if isinstance(value, PassThroughConfig):
            keys = [name for name in keys if getattr(value, name) is not None]
        return {name: to_plain_values(getattr(value, name)) for name in keys}
    if isinstance(value, Mapping):
        return {name: to_plain_values(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain_values(item) for item in value]
    return value


def _write_yaml_lines(tree: dict[str, Any] | list[Any], indent: str, lines: list[str]) -> None:
    """Appends a mapping or a list that is not empty, one line for each entry."""
    is_mapping = isinstance(tree, dict)
    prefixes = [f"{_quote_if_needed(key)}:" for key in tree] if is_mapping else ["-"] * len(tree)
    for prefix, item in zip(prefixes, tree.values() if is_mapping else tree, strict=True):
        line = format_flow(item)
        fits = line is not None and len(indent) + len(prefix) + 1 + len(line) <= _WIDTH
        if fits or not isinstance(item, dict | list):
            lines.append(f"{indent}{prefix} {_fold_scalar(line, indent)}")
        elif prefix == "-":
            start = len(lines)
            _write_yaml_lines(item, f"{indent}  ", lines)
            lines[start] = f"{indent}- {lines[start][len(indent) + 2 :]}"
        else:
            lines.append(f"{indent}{prefix}")
            _write_yaml_lines(item, f"{indent}  ", lines)


def _fold_scalar(line: str | None, indent: str) -> str:
    """A scalar, written over several lines if it is very long: a double-quoted text continues after a backslash."""
    if line is None or len(line) <= _MAX_SCALAR_WIDTH:
        return str(line)
    chunks = _TEXT_CHUNK.findall(line)
    # YAML drops a space at the start of a continued line unless a backslash precedes it.
    return f"\\\n{indent}  ".join(f"\\{chunk}" if n and chunk[0] == " " else chunk for n, chunk in enumerate(chunks))


def format_flow(tree: Any) -> str | None:
    """A scalar, an empty collection, or a list of scalars and of such lists on one line; None for anything else."""
    if isinstance(tree, dict):
        return None if tree else "{}"
    if isinstance(tree, list):
        items = [format_flow(item) for item in tree]
        return None if any(item is None for item in items) else f"[{', '.join(item for item in items if item)}]"
    if isinstance(tree, str):
        return _quote_if_needed(tree)
    if tree is None or isinstance(tree, bool):
        return {None: "null", True: "true", False: "false"}[tree]
    if isinstance(tree, int | float):
        return repr(tree)
    raise TypeError(f"a recipe cannot contain {tree!r}")


def _quote_if_needed(text: str) -> str:
    """Text without quotes where YAML reads it as the same text, else in double quotes."""
    if len(text) <= _WIDTH and _PLAIN.fullmatch(text) and parse_plain_scalar(text) is text:
        return text
    return '"' + "".join(_escape_character(character) for character in text) + '"'


def _escape_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return {"\n": "\\n", "\t": "\\t"}.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
