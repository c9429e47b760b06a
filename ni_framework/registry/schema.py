"""The JSON Schema of recipes with what is installed here."""

from __future__ import annotations

from typing import Any

from ni_framework.errors import PluginError, RecipeError
from ni_framework.options import KINDS
from ni_framework.recipe.export.json_schema import json_schema
from ni_framework.recipe.validate.fields import fields_of
from ni_framework.registry.catalog import installed
from ni_framework.registry.describe import sentence
from ni_framework.registry.resolve import component


def installed_schema() -> tuple[dict[str, Any], list[str]]:
    """The schema, and what is wrong with each component that had to be left out of it."""
    components: dict[str, dict[str, tuple[type, str]]] = {kind: {} for kind in KINDS}
    faults: list[str] = []
    for kind in KINDS:
        for name in installed().names(kind):
            try:
                cls = component(kind, name)
                fields_of(cls.Config)
            except (PluginError, RecipeError) as error:
                faults.append(error.problems[0].message)
            except Exception as error:  # annotations are code of the component, of which nothing is known
                faults.append(f"the Config of {kind} `{name}` cannot be read: {error}")
            else:
                components[kind][name] = cls.Config, sentence(cls.__doc__ or "")
    return json_schema(components), faults
