"""What is installed, in words: from metadata alone, or as its code says itself."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import attrs

from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.options import KINDS
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import HOOKS, Entry


def listed(entry: Entry) -> dict[str, Any]:
    """What is known of an entry without importing it; `remark` says what keeps it from being used, "" if nothing."""
    return attrs.asdict(entry) | {"remark": installed().remark(entry)}


def loaded(entry: Entry) -> dict[str, Any]:
    """What an entry says when it is imported; `status` is "ok", or what is wrong with it.

    Nothing is raised for a broken one: it is not to keep others from being listed.
    """
    try:
        return described(entry) | {"remark": installed().remark(entry)}
    except PluginError as error:
        fault, known = error.problems[0].message.removeprefix(f"{entry.label} ({entry.value}) "), listed(entry)
        status = fault if installed().refusal(entry) else f"broken: {fault}"
        absent = {"source": entry.value, "api": None, "file": None, "summary": "", "doc": "", "options": []}
        return known | {"status": status} | absent


def described(entry: Entry) -> dict[str, Any]:
    """An entry and what its code says of itself; raises `PluginError` if it cannot be loaded."""
    from ni_framework.registry.hooks import listener
    from ni_framework.registry.resolve import broken, load

    found: Any = type(listener(entry).get_plugins().pop()) if entry.kind == HOOKS else load(entry)
    doc = inspect.getdoc(found) or ""
    try:
        options = [] if entry.kind == HOOKS else [_option(field) for field in attrs.fields(found.Config)]
    except Exception as error:  # annotations are code of the component, of which nothing is known
        raise broken(entry, f"has a Config that cannot be read: {error}") from error
    return attrs.asdict(entry) | {
        "source": entry.value,
        "api": getattr(found, "api", None),
        "status": "ok",
        "file": _file(found),
        "summary": sentence(doc),
        "doc": doc,
        "options": options,
    }


def describe_component(name: str) -> list[dict[str, Any]]:
    """Every component called `name` ("kernel"), or the one of a kind ("router/kernel"), as `described` has it.

    Raises `RecipeError` if there is none, `PluginError` if it is broken.
    """
    kind, _, short = name.rpartition("/")
    kinds = [kind] if kind else installed().kinds(short)
    if not kinds or (kind and kind not in KINDS):
        hint = "`ni ls` lists all" if not kind else f"kinds are: {', '.join(KINDS)}"
        raise RecipeError([Problem(f"there is no component `{name}`", hint=hint)])
    return [described(installed().find(kind, short)) for kind in kinds]


def sentence(doc: str) -> str:
    """The first sentence of a docstring, on one line."""
    return re.split(r"(?<=[.!?])\s|\n\s*\n", inspect.cleandoc(doc), maxsplit=1)[0].replace("\n", " ")


def _file(found: Any) -> str | None:
    try:
        return inspect.getsourcefile(found)
    except TypeError:
        return None


def _option(field: attrs.Attribute[Any]) -> dict[str, str]:
    if "kind" in field.metadata:
        absent = "required" if field.default is attrs.NOTHING else None
        default, type_name = field.metadata["use"] or absent, field.metadata["kind"]
    else:
        default = "required" if field.default is attrs.NOTHING else field.default
        type_name = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    shown = json.dumps(default) if default is None or isinstance(default, bool | tuple) else str(default)
    return {"name": field.name, "type": str(type_name), "default": shown, "help": field.metadata.get("help", "")}
