"""What the schema says about a mapping before its values are checked: which component it means, if it names none."""

from __future__ import annotations

from typing import Any

import attrs

from ni_framework.options import Choice
from ni_framework.recipe.parsing.nodes import MappingNode, ScalarNode, explicit_use
from ni_framework.recipe.validate.fields import Field, Resolve, fields_of, is_choice, is_config, members


@attrs.frozen
class Outline:
    """The schema at one key path, as far as it is known there."""

    annotation: Any = None
    field: Field | None = None
    resolve: Resolve | None = None

    @property
    def is_choice(self) -> bool:
        """Whether the value here is surely named by `use`."""
        return self.annotation is not None and is_choice(self.annotation)

    def may_be_name(self, node: ScalarNode) -> bool:
        """Whether a bare value here can stand for `{use: value}`."""
        return isinstance(node.value, str) and (self.annotation is None or self.is_choice)

    def use(self, node: MappingNode) -> str | None:
        """The component that a mapping here means, whether it names it or leaves it to the default."""
        if use := explicit_use(node):
            return use
        if self.field and self.field.kind:
            return self.field.use
        config = self._config(node)
        default = fields_of(config)["use"].attribute.default if config and "use" in fields_of(config) else None
        return default if isinstance(default, str) else None

    def inside(self, node: MappingNode, key: str) -> Outline:
        """The schema at a key of a mapping here."""
        config = self._config(node)
        field = fields_of(config).get(key) if config else None
        return Outline(field.annotation, field, self.resolve) if field else UNKNOWN

    def item(self) -> Outline:
        """The schema at an item of a list here: unknown, since a script's defaults are the model's own keys."""
        return UNKNOWN

    def _config(self, node: MappingNode) -> type | None:
        """The config class that a mapping here would be read with, None where that cannot be told."""
        for member in members(self.annotation):
            if is_config(member):
                return member
            if member is Choice and self.field and self.field.kind and self.resolve and (use := self.use(node)):
                try:
                    config = self.resolve(self.field.kind, use)
                    fields_of(config)
                except Exception:  # whatever it is, it is reported with its place when the value itself is read
                    return None
                return config
        return None


UNKNOWN = Outline()
