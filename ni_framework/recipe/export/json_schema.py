"""Recipes as a JSON Schema (draft 2020-12): what the loader accepts, for editors and other tools.

Two rules of the loader cannot be expressed. Where a mapping without `use` is laid over another (in `scripts`, and with
`extends`), the schema cannot know which component it means, and accepts the options of any component. And JSON Schema does
not distinguish 1 from 1.0, or 2**70 from 1.2e21, as the loader does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import attrs

from ni_framework.options import ComponentSpec
from ni_framework.recipe.dump import to_plain_values
from ni_framework.recipe.parsing.parser import MAX_KEY
from ni_framework.recipe.schema import Recipe, ScriptConfig
from ni_framework.recipe.validate.fields import (
    Field,
    fields_of,
    is_config_type,
    is_open_mapping,
    is_scalar_type,
    union_members,
)

ComponentConfigs = Mapping[str, Mapping[str, tuple[type, str]]]
"""Kind -> name -> the component's `Config`, and a sentence about it."""

_BOUND_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TYPES: Mapping[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    None: {"type": "null"},
}
_KEY = {"minLength": 1, "maxLength": MAX_KEY, "not": {"pattern": "^<<$|[\\u0000-\\u001f\\u007f-\\u009f]"}}
# A relative path, for `extends`.
_RELATIVE = r"^(?![~/\\]|[A-Za-z]:)\s*\S"


def build_json_schema(components: ComponentConfigs) -> dict[str, Any]:
    """The schema of all recipes that use these components."""
    writer = _SchemaWriter(components)
    extends = {"type": "string", "pattern": _RELATIVE, "description": "another recipe, over which this one is laid"}
    for partial in (False, True):
        recipe = writer.config_schema(Recipe, partial)
        recipe["properties"] = {"extends": extends} | recipe["properties"]
        writer.definitions[_definition_name("recipe", partial)] = recipe
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of ni_framework",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": _reference("recipe", partial=True),
        "else": _reference("recipe", partial=False),
        "$defs": dict(sorted(writer.definitions.items())),
    }


def _definition_name(name: str, partial: bool) -> str:
    return f"{name}.partial" if partial else name


def _reference(name: str, partial: bool) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{_definition_name(name, partial)}"}


class _SchemaWriter:
    """Writes schemas of config classes, and collects the definitions that they refer to.

    A `partial` schema is that of a mapping which is laid over another one, so that no key is required.
    """

    def __init__(self, components: ComponentConfigs) -> None:
        self.components = components
        self.definitions: dict[str, Any] = {}
        self.default_cache: dict[tuple[str, str], bool] = {}
        for kind, configs in components.items():
            for name, (config, summary) in configs.items():
                for partial in (False, True):
                    self.definitions[_definition_name(f"{kind}.{name}", partial)] = self._component_schema(
                        name, config, summary, partial
                    )

    def config_schema(self, cls: type, partial: bool, omit: tuple[str, ...] = ()) -> dict[str, Any]:
        """The schema of a mapping with the keys of a config class.

        Args:
            cls: The config class.
            partial: Whether the mapping is laid over another one.
            omit: Keys of the class that the schema does not contain.
        """
        fields = {name: field for name, field in fields_of(cls).items() if name not in omit}
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: self._field_schema(field, partial) for name, field in fields.items()},
            "additionalProperties": False,
        }
        required = [] if partial else [name for name, field in fields.items() if self._is_required(field)]
        return schema | ({"required": required} if required else {})

    def _component_schema(self, name: str, config: type, summary: str, partial: bool) -> dict[str, Any]:
        schema: dict[str, Any] = {"description": summary} | self.config_schema(config, partial, omit=("use",))
        schema["properties"] = {"use": {"const": name}} | schema["properties"]
        return schema

    def _field_schema(self, field: Field, partial: bool) -> dict[str, Any]:
        schema = self._value_schema(field.annotation, field, partial)
        annotations: dict[str, Any] = {"description": field.help} if field.help else {}
        if field.default_use is not None:
            annotations["default"] = field.default_use
        elif _is_json(default := to_plain_values(field.attribute.default)):
            annotations["default"] = default
        return annotations | schema

    def _value_schema(self, annotation: Any, field: Field, partial: bool) -> dict[str, Any]:
        """The schema of a value as `StructureReader.read_value` reads it: a scalar by any type, a collection by the first one."""
        types = union_members(annotation)
        choices = [self._scalar_schema(item, field) for item in types if is_scalar_type(item)]
        for item in types:
            if get_origin(item) is tuple:
                choices.append(self._items_schema(get_args(item), field, partial))
                break
        for item in types:
            if item is ComponentSpec:
                choices.append(self._component_choice_schema(field, partial))
            elif is_config_type(item):
                choices.append(self._nested_schema(item, partial, allow_name=str not in types))
            elif is_open_mapping(item):
                values = self._value_schema(get_args(item)[1], field, partial)
                choices.append({"type": "object", "propertyNames": _KEY, "additionalProperties": values})
            else:
                continue
            break
        return choices[0] if len(choices) == 1 else {"anyOf": choices}

    def _scalar_schema(self, annotation: Any, field: Field) -> dict[str, Any]:
        if get_origin(annotation) is Literal:
            all_integers = all(type(known) is int for known in get_args(annotation))
            return ({"type": "integer"} if all_integers else {}) | {"enum": list(get_args(annotation))}
        schema = dict(_TYPES[annotation])
        if annotation in (int, float):
            for name, bound in field.attribute.metadata["bounds"].items():
                schema[_BOUND_KEYWORDS[name]] = bound
        return schema

    def _items_schema(self, types: tuple[Any, ...], field: Field, partial: bool) -> dict[str, Any]:
        if len(types) == 2 and types[1] is Ellipsis:
            bounds = {"minItems": 1} if types[0] is ScriptConfig else {}
            return {"type": "array", "items": self._value_schema(types[0], field, partial)} | bounds
        items = [self._value_schema(item, field, partial) for item in types if item != ()]
        bounds = {"minItems": len(items), "maxItems": len(items)}
        return {"type": "array"} | ({"prefixItems": items} if items else {}) | bounds

    def _nested_schema(self, cls: type, partial: bool, allow_name: bool) -> dict[str, Any]:
        # A script is laid over the model's own keys.
        schema = self.config_schema(cls, partial or cls is ScriptConfig)
        if allow_name and "use" in fields_of(cls) and schema.get("required", ["use"]) == ["use"]:
            return {"anyOf": [schema["properties"]["use"], schema]}
        return schema

    def _component_choice_schema(self, field: Field, partial: bool) -> dict[str, Any]:
        """The schema of a component: its name, or a mapping with its options.

        The cases are separated by `if` and not by `anyOf`, so that an editor reports only the problems of the named component.
        """
        kind = str(field.kind)
        names = self.components.get(kind, {})
        cases = [
            {
                "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
                "then": _reference(f"{kind}.{name}", partial),
            }
            for name in names
        ]
        mapping: dict[str, Any] = {"properties": {"use": {"enum": list(names)}}, "allOf": cases}
        without_use = {"if": {"not": {"required": ["use"]}}}
        if partial and names:
            cases.append(without_use | {"then": {"anyOf": [_reference(f"{kind}.{name}", partial) for name in names]}})
        elif field.default_use in names:
            cases.append(without_use | {"then": _reference(f"{kind}.{field.default_use}", partial)})
        else:
            mapping["required"] = ["use"]
        bare_names = [name for name in names if partial or self._has_all_defaults(kind, name)]
        name = (
            f"{kind}.or.{field.default_use}"
            if field.default_use in names and not partial
            else _definition_name(kind, partial)
        )
        if bare_names:
            by_name = {"type": ["string", "object"], "if": {"type": "string"}, "then": {"enum": bare_names}}
            self.definitions[name] = by_name | {"else": mapping}
        else:  # Validators need not accept an empty `enum`.
            self.definitions[name] = {"type": "object"} | mapping if names else {"not": {}}
        return {"$ref": f"#/$defs/{name}"}

    def _is_required(self, field: Field) -> bool:
        if field.attribute.default is not attrs.NOTHING:
            return False
        return not (field.kind and field.default_use and self._has_all_defaults(field.kind, field.default_use))

    def _has_all_defaults(self, kind: str, name: str) -> bool:
        """Whether all options of a component have defaults."""
        if (kind, name) not in self.default_cache:
            # Set before the options are looked at: if default components contain each other, one has to be given.
            self.default_cache[kind, name] = False
            if component := self.components.get(kind, {}).get(name):
                options = (field for key, field in fields_of(component[0]).items() if key != "use")
                self.default_cache[kind, name] = not any(map(self._is_required, options))
        return self.default_cache[kind, name]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
