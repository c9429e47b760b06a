"""Recipes as a JSON Schema (draft 2020-12): what the loader accepts, for editors and other tools.

JSON Schema cannot say which component a mapping without `use` means where it is laid over another (in `scripts`, and with
`extends`): there, any component's options are accepted. Nor can it tell 1 from 1.0 and 2**70 from 1.2e21, as the loader does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import attrs

from ni_framework.options import Choice
from ni_framework.recipe.dump import plain_values
from ni_framework.recipe.parsing.parser import MAX_KEY
from ni_framework.recipe.schema import Recipe, Script
from ni_framework.recipe.validate.fields import Field, fields_of, is_config, is_free, is_plain, members

Components = Mapping[str, Mapping[str, tuple[type, str]]]
"""Kind -> name -> the component's `Config`, and what it is in a sentence."""

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TYPES: Mapping[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    None: {"type": "null"},
}
_KEY = {"minLength": 1, "maxLength": MAX_KEY, "not": {"pattern": "^<<$|[\\u0000-\\u001f\\u007f-\\u009f]"}}
_RELATIVE = r"^(?![~/\\]|[A-Za-z]:)\s*\S"


def json_schema(components: Components) -> dict[str, Any]:
    """The schema of all recipes that can be made of these components."""
    writer = _Writer(components)
    extends = {"type": "string", "pattern": _RELATIVE, "description": "another recipe, which this one is laid over"}
    for partial in (False, True):
        recipe = writer.config(Recipe, partial)
        recipe["properties"] = {"extends": extends} | recipe["properties"]
        writer.definitions[_named("recipe", partial)] = recipe
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of ni_framework",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": _reference("recipe", partial=True),
        "else": _reference("recipe", partial=False),
        "$defs": dict(sorted(writer.definitions.items())),
    }


def _named(name: str, partial: bool) -> str:
    return f"{name}.partial" if partial else name


def _reference(name: str, partial: bool) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{_named(name, partial)}"}


class _Writer:
    """Writes schemas of config classes, and collects the definitions that they refer to.

    `partial` schemas are of what is laid over something else, so that nothing has to be there.
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        self.definitions: dict[str, Any] = {}
        self.ready: dict[tuple[str, str], bool] = {}
        for kind, named in components.items():
            for name, (config, summary) in named.items():
                for partial in (False, True):
                    self.definitions[_named(f"{kind}.{name}", partial)] = self._component(
                        name, config, summary, partial
                    )

    def config(self, cls: type, partial: bool, own: tuple[str, ...] = ()) -> dict[str, Any]:
        """The schema of a mapping with a config class's keys, but for those in `own`."""
        fields = {name: field for name, field in fields_of(cls).items() if name not in own}
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: self._field(field, partial) for name, field in fields.items()},
            "additionalProperties": False,
        }
        required = [] if partial else [name for name, field in fields.items() if self._is_required(field)]
        return schema | ({"required": required} if required else {})

    def _component(self, name: str, config: type, summary: str, partial: bool) -> dict[str, Any]:
        schema: dict[str, Any] = {"description": summary} | self.config(config, partial, own=("use",))
        schema["properties"] = {"use": {"const": name}} | schema["properties"]
        return schema

    def _field(self, field: Field, partial: bool) -> dict[str, Any]:
        schema = self._value(field.annotation, field, partial)
        known: dict[str, Any] = {"description": field.help} if field.help else {}
        if field.use is not None:
            known["default"] = field.use
        elif _is_json(default := plain_values(field.attribute.default)):
            known["default"] = default
        return known | schema

    def _value(self, annotation: Any, field: Field, partial: bool) -> dict[str, Any]:
        """As `Structure.value` reads it: scalars by any type that fits, a list or a mapping by the first."""
        types = members(annotation)
        choices = [self._plain(item, field) for item in types if is_plain(item)]
        for item in types:
            if get_origin(item) is tuple:
                choices.append(self._items(get_args(item), field, partial))
                break
        for item in types:
            if item is Choice:
                choices.append(self._choice(field, partial))
            elif is_config(item):
                choices.append(self._nested(item, partial, named=str not in types))
            elif is_free(item):
                inside = self._value(get_args(item)[1], field, partial)
                choices.append({"type": "object", "propertyNames": _KEY, "additionalProperties": inside})
            else:
                continue
            break
        return choices[0] if len(choices) == 1 else {"anyOf": choices}

    def _plain(self, annotation: Any, field: Field) -> dict[str, Any]:
        if get_origin(annotation) is Literal:
            whole = all(type(known) is int for known in get_args(annotation))
            return ({"type": "integer"} if whole else {}) | {"enum": list(get_args(annotation))}
        schema = dict(_TYPES[annotation])
        if annotation in (int, float):
            for name, bound in field.attribute.metadata["bounds"].items():
                schema[_BOUNDS[name]] = bound
        return schema

    def _items(self, types: tuple[Any, ...], field: Field, partial: bool) -> dict[str, Any]:
        if len(types) == 2 and types[1] is Ellipsis:
            least = {"minItems": 1} if types[0] is Script else {}
            return {"type": "array", "items": self._value(types[0], field, partial)} | least
        items = [self._value(item, field, partial) for item in types if item != ()]
        bounded = {"minItems": len(items), "maxItems": len(items)}
        return {"type": "array"} | ({"prefixItems": items} if items else {}) | bounded

    def _nested(self, cls: type, partial: bool, named: bool) -> dict[str, Any]:
        schema = self.config(cls, partial or cls is Script)  # a script is laid over the model's own keys
        if named and "use" in fields_of(cls) and schema.get("required", ["use"]) == ["use"]:
            return {"anyOf": [schema["properties"]["use"], schema]}
        return schema

    def _choice(self, field: Field, partial: bool) -> dict[str, Any]:
        """A component by its name alone, or a mapping with its options, told apart so that an editor complains of one."""
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
        without = {"if": {"not": {"required": ["use"]}}}
        if partial and names:
            cases.append(without | {"then": {"anyOf": [_reference(f"{kind}.{name}", partial) for name in names]}})
        elif field.use in names:
            cases.append(without | {"then": _reference(f"{kind}.{field.use}", partial)})
        else:
            mapping["required"] = ["use"]
        bare = [name for name in names if partial or self._needs_nothing(kind, name)]
        name = f"{kind}.or.{field.use}" if field.use in names and not partial else _named(kind, partial)
        if bare:
            alone = {"type": ["string", "object"], "if": {"type": "string"}, "then": {"enum": bare}}
            self.definitions[name] = alone | {"else": mapping}
        else:  # validators need not know empty lists
            self.definitions[name] = {"type": "object"} | mapping if names else {"not": {}}
        return {"$ref": f"#/$defs/{name}"}

    def _is_required(self, field: Field) -> bool:
        if field.attribute.default is not attrs.NOTHING:
            return False
        return not (field.kind and field.use and self._needs_nothing(field.kind, field.use))

    def _needs_nothing(self, kind: str, name: str) -> bool:
        """Whether a component's options may all be left out."""
        if (kind, name) not in self.ready:
            self.ready[kind, name] = False  # defaults that ask for each other never end, so one has to be given
            if named := self.components.get(kind, {}).get(name):
                options = (field for key, field in fields_of(named[0]).items() if key != "use")
                self.ready[kind, name] = not any(map(self._is_required, options))
        return self.ready[kind, name]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
