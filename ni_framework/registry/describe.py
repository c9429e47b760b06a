"""Descriptions of what is installed, for listings: from metadata alone, or from the imported code."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import attrs

from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.options import COMPONENT_KINDS
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.discover import HOOKS, Entry


def describe_metadata(entry: Entry) -> dict[str, Any]:
    """The description of an entry without importing it; `remark` is the reason why it is not used, or ""."""
    return attrs.asdict(entry) | {"remark": installed_catalog().remark(entry)}


def describe_or_fault(entry: Entry) -> dict[str, Any]:
    """The description of an entry that is imported for it; `status` is "ok", or what is wrong with the entry.

    A broken entry raises nothing, so that the other entries can still be listed.
    """
    try:
        return describe_entry(entry) | {"remark": installed_catalog().remark(entry)}
    except PluginError as error:
        reason = error.problems[0].message.removeprefix(f"{entry.label} ({entry.value}) ")
        status = reason if installed_catalog().find_rejection(entry) else f"broken: {reason}"
        absent = {"source": entry.value, "api": None, "file": None, "summary": "", "doc": "", "options": []}
        return describe_metadata(entry) | {"status": status} | absent


def describe_entry(entry: Entry) -> dict[str, Any]:
    """The description of an entry and of its code; raises `PluginError` if it cannot be loaded."""
    from ni_framework.registry.hooks import load_listener
    from ni_framework.registry.resolve import broken_entry_error, load_entry

    cls: Any = type(load_listener(entry).get_plugins().pop()) if entry.kind == HOOKS else load_entry(entry)
    doc = inspect.getdoc(cls) or ""
    try:
        options = [] if entry.kind == HOOKS else [_describe_option(field) for field in attrs.fields(cls.Config)]
    except Exception as error:  # Annotations are code of the component, which may raise anything.
        raise broken_entry_error(entry, f"has a Config that cannot be read: {error}") from error
    return attrs.asdict(entry) | {
        "source": entry.value,
        "api": getattr(cls, "api", None),
        "status": "ok",
        "file": _source_file(cls),
        "summary": first_sentence(doc),
        "doc": doc,
        "options": options,
    }


def describe_component(name: str) -> list[dict[str, Any]]:
    """Descriptions, as of `describe_entry`, of all components with a name ("kernel"), or of the one of a kind ("router/kernel").

    Raises `RecipeError` if no component has the name, `PluginError` if it is broken.
    """
    kind, _, short = name.rpartition("/")
    kinds = [kind] if kind else installed_catalog().kinds(short)
    if not kinds or (kind and kind not in COMPONENT_KINDS):
        hint = "`ni ls` lists all" if not kind else f"kinds are: {', '.join(COMPONENT_KINDS)}"
        raise RecipeError([Problem(f"there is no component `{name}`", hint=hint)])
    return [describe_entry(installed_catalog().find(kind, short)) for kind in kinds]


def first_sentence(doc: str) -> str:
    """The first sentence of a docstring, on one line."""
    return re.split(r"(?<=[.!?])\s|\n\s*\n", inspect.cleandoc(doc), maxsplit=1)[0].replace("\n", " ")


def _source_file(cls: Any) -> str | None:
    try:
        return inspect.getsourcefile(cls)
    except TypeError:
        return None


def _describe_option(field: attrs.Attribute[Any]) -> dict[str, str]:
    if "kind" in field.metadata:
        absent = "required" if field.default is attrs.NOTHING else None
        default, type_name = field.metadata["use"] or absent, field.metadata["kind"]
    else:
        default = "required" if field.default is attrs.NOTHING else field.default
        type_name = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    default_text = json.dumps(default) if default is None or isinstance(default, bool | tuple) else str(default)
    return {"name": field.name, "type": str(type_name), "default": default_text, "help": field.metadata.get("help", "")}
