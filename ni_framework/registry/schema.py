"""The JSON Schema of recipes with the installed components."""

from __future__ import annotations

from typing import Any

from ni_framework.errors import PluginError, RecipeError
from ni_framework.options import COMPONENT_KINDS
from ni_framework.recipe.export.json_schema import build_json_schema
from ni_framework.recipe.validate.fields import fields_of
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.describe import first_sentence
from ni_framework.registry.resolve import resolve_component


def installed_schema() -> tuple[dict[str, Any], list[str]]:
    """The schema, and a message for each broken component, which the schema does not contain."""
    components: dict[str, dict[str, tuple[type, str]]] = {kind: {} for kind in COMPONENT_KINDS}
    faults: list[str] = []
    for kind in COMPONENT_KINDS:
        for name in installed_catalog().names(kind):
            try:
                cls = resolve_component(kind, name)
                fields_of(cls.Config)
            except (PluginError, RecipeError) as error:
                faults.append(error.problems[0].message)
            except Exception as error:  # Annotations are code of the component, which may raise anything.
                faults.append(f"the Config of {kind} `{name}` cannot be read: {error}")
            else:
                components[kind][name] = cls.Config, first_sentence(cls.__doc__ or "")
    return build_json_schema(components), faults
