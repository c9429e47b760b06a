"""How the author's keyword arguments are declared and read: attrs classes whose fields bear the author's names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import NoneType
from typing import Any, TypeVar

import attrs

S = TypeVar("S")
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a mapping",
    NoneType: "null",
}


def key(*types: type, default: Any = attrs.NOTHING, supported: tuple[Any, ...] = (), least: int | None = None) -> Any:
    """A keyword argument of these types. `default` is the author's; only `supported` values pass, if any are named."""
    return attrs.field(default=default, metadata={"types": types, "supported": supported, "least": least})


def section(cls: type[S], *, needed: bool = False) -> S:
    """A keyword argument that is a mapping of further ones; absent or null, it is an empty mapping unless needed."""
    return attrs.field(metadata={"section": cls, "needed": needed})


def read(cls: type[S], given: Any, path: str, problems: list[str]) -> S | None:
    """An instance of `cls` from a mapping; None if anything is wrong, each such thing being added to `problems`."""
    if not isinstance(given, Mapping):
        problems.append(f"{path.rstrip('.') or 'config'}: expected a mapping, not {_shown(given)}")
        return None
    fields = attrs.fields_dict(cls)  # pyright: ignore[reportArgumentType]
    before = len(problems)
    for name in given:
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here are {', '.join(fields)}"
            problems.append(f"{path}{name}: the author's model has no such option; {hint}")
    values = {name: _value(field, given, f"{path}{name}", problems) for name, field in fields.items()}
    return cls(**values) if len(problems) == before else None


def _value(field: attrs.Attribute[Any], given: Mapping[str, Any], path: str, problems: list[str]) -> Any:
    meta, absent = field.metadata, field.name not in given
    value = given.get(field.name)
    if "section" in meta:
        if absent and meta["needed"]:
            problems.append(f"{path}: missing from the config")
            return None
        return read(meta["section"], {} if value is None and not meta["needed"] else value, f"{path}.", problems)
    if absent:
        if field.default is attrs.NOTHING:
            problems.append(f"{path}: missing from the config")
            return None
        value = field.default
    if not _has_type(value, meta["types"]):
        words = [_WORDS[kind] for kind in meta["types"]]
        problems.append(f"{path}: expected {' or '.join(words)}, not {_shown(value)}")
    elif meta["supported"] and value not in meta["supported"]:
        said = f"absent, which means {_shown(value)} in the author's code," if absent else _shown(value)
        problems.append(f"{path}: {said} is not supported; supported: {', '.join(map(_shown, meta['supported']))}")
    elif meta["least"] is not None and isinstance(value, int) and value < meta["least"]:
        problems.append(f"{path}: must be at least {meta['least']}, not {value}")
    return value


def _has_type(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (float in types and isinstance(value, int))


def _shown(value: Any) -> str:
    """A value as JSON and YAML write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    return repr(value)
