"""What a component is and takes, read from its class."""

from __future__ import annotations

import inspect
import json
from typing import Any

import attrs

from ni_framework.errors import Problem, RecipeError
from ni_framework.options import KINDS
from ni_framework.registry.catalog import installed
from ni_framework.registry.resolve import component


def describe_component(name: str) -> list[dict[str, Any]]:
    """Every component called `name` ("kernel"), or the one of a kind ("router/kernel"), with its options.

    Raises `RecipeError` if there is none, `PluginError` if it is broken.
    """
    kind, _, short = name.rpartition("/")
    kinds = [kind] if kind else installed().kinds(short)
    if not kinds or (kind and kind not in KINDS):
        hint = "`ni ls` lists all" if not kind else f"kinds are: {', '.join(KINDS)}"
        raise RecipeError([Problem(f"there is no component `{name}`", hint=hint)])
    return [_describe(kind, short) for kind in kinds]


def _describe(kind: str, name: str) -> dict[str, Any]:
    cls = component(kind, name)
    entry = installed().find(kind, name)
    return {
        "kind": kind,
        "name": name,
        "distribution": entry.distribution,
        "version": entry.version,
        "source": entry.value,
        "api": cls.api,
        "doc": inspect.getdoc(cls) or "",
        "options": [_option(field) for field in attrs.fields(cls.Config)],
    }


def _option(field: attrs.Attribute[Any]) -> dict[str, str]:
    if "kind" in field.metadata:
        absent = "required" if field.default is attrs.NOTHING else None
        default, type_name = field.metadata["use"] or absent, field.metadata["kind"]
    else:
        default = "required" if field.default is attrs.NOTHING else field.default
        type_name = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    shown = json.dumps(default) if default is None or isinstance(default, bool | tuple) else str(default)
    return {"name": field.name, "type": str(type_name), "default": shown, "help": field.metadata.get("help", "")}
