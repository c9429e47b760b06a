"""How the author's keyword arguments are declared and read: attrs classes whose fields have the author's names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import NoneType
from typing import Any, TypeVar

import attrs

S = TypeVar("S")
_AUTHOR_TYPE_PHRASES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a mapping",
    NoneType: "null",
}


def author_option(
    *types: type, default: Any = attrs.NOTHING, supported: tuple[Any, ...] = (), minimum: int | None = None
) -> Any:
    """A keyword argument.

    Args:
        types: The types that it may have.
        default: The author's default; without it the argument is required.
        supported: The only values that are accepted, if there are any.
        minimum: The smallest number that is accepted.
    """
    return attrs.field(default=default, metadata={"types": types, "supported": supported, "minimum": minimum})


def author_section(cls: type[S], *, required: bool = False) -> S:
    """A keyword argument that is a mapping of further ones; if it is not required, absent or null means an empty mapping."""
    return attrs.field(metadata={"section": cls, "required": required})


def read_author_mapping(cls: type[S], mapping: Any, path: str, problems: list[str]) -> S | None:
    """An instance of a config class from a mapping.

    Args:
        cls: The class, whose fields are made with `author_option` and `author_section`.
        mapping: The keyword arguments.
        path: The key path of the mapping with a dot at its end, for messages; "" at the top.
        problems: A line for each problem is appended to it.

    Returns:
        The instance; None if there is a problem.
    """
    if not isinstance(mapping, Mapping):
        problems.append(f"{path.rstrip('.') or 'config'}: expected a mapping, not {_format_author_value(mapping)}")
        return None
    fields = attrs.fields_dict(cls)  # pyright: ignore[reportArgumentType]
    problems_before = len(problems)
    for name in mapping:
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known options: {', '.join(fields)}"
            problems.append(f"{path}{name}: the author's model has no such option; {hint}")
    values = {name: _read_author_value(field, mapping, f"{path}{name}", problems) for name, field in fields.items()}
    return cls(**values) if len(problems) == problems_before else None


def _read_author_value(field: attrs.Attribute[Any], mapping: Mapping[str, Any], path: str, problems: list[str]) -> Any:
    meta, absent = field.metadata, field.name not in mapping
    value = mapping.get(field.name)
    if "section" in meta:
        if absent and meta["required"]:
            problems.append(f"{path}: missing from the config")
            return None
        section = {} if value is None and not meta["required"] else value
        return read_author_mapping(meta["section"], section, f"{path}.", problems)
    if absent:
        if field.default is attrs.NOTHING:
            problems.append(f"{path}: missing from the config")
            return None
        value = field.default
    if not _has_type(value, meta["types"]):
        phrases = [_AUTHOR_TYPE_PHRASES[kind] for kind in meta["types"]]
        problems.append(f"{path}: expected {' or '.join(phrases)}, not {_format_author_value(value)}")
    elif meta["supported"] and value not in meta["supported"]:
        text = _format_author_value(value)
        actual = f"absent, which means {text} in the author's code," if absent else text
        supported = ", ".join(map(_format_author_value, meta["supported"]))
        problems.append(f"{path}: {actual} is not supported; supported: {supported}")
    elif meta["minimum"] is not None and isinstance(value, int) and value < meta["minimum"]:
        problems.append(f"{path}: must be at least {meta['minimum']}, not {value}")
    return value


def _has_type(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (float in types and isinstance(value, int))


def _format_author_value(value: Any) -> str:
    """A value as it is written in JSON and YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    return repr(value)
