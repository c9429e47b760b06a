"""What the merge needs of the schema before values are checked: which component a mapping without `use` means."""

from __future__ import annotations

from typing import Any

import attrs

from ni_framework.options import ComponentSpec
from ni_framework.recipe.parsing.nodes import MappingNode, ScalarNode, explicit_use
from ni_framework.recipe.validate.fields import (
    ConfigResolver,
    Field,
    fields_of,
    is_config_type,
    is_named_by_use,
    union_members,
)


@attrs.frozen
class SchemaHint:
    """The schema at one key path, as far as it is known."""

    annotation: Any = None
    field: Field | None = None
    resolve: ConfigResolver | None = None

    @property
    def is_named_by_use(self) -> bool:
        """Whether it is certain that the value here is named by `use`."""
        return self.annotation is not None and is_named_by_use(self.annotation)

    def may_be_name(self, node: ScalarNode) -> bool:
        """Whether a bare value here can mean `{use: value}`."""
        return isinstance(node.value, str) and (self.annotation is None or self.is_named_by_use)

    def effective_use(self, node: MappingNode) -> str | None:
        """The component that a mapping here means: the one that it names, or the default."""
        if use := explicit_use(node):
            return use
        if self.field and self.field.kind:
            return self.field.default_use
        config = self._config(node)
        default = fields_of(config)["use"].attribute.default if config and "use" in fields_of(config) else None
        return default if isinstance(default, str) else None

    def at_key(self, node: MappingNode, key: str) -> SchemaHint:
        """The schema at a key of a mapping here."""
        config = self._config(node)
        field = fields_of(config).get(key) if config else None
        return SchemaHint(field.annotation, field, self.resolve) if field else UNKNOWN_SCHEMA

    def at_item(self) -> SchemaHint:
        """The schema at an item of a list here: unknown, because the defaults of a script are the model's own keys."""
        return UNKNOWN_SCHEMA

    def _config(self, node: MappingNode) -> type | None:
        """The config class that a mapping here is read with; None if that is not known."""
        for member in union_members(self.annotation):
            if is_config_type(member):
                return member
            if (
                member is ComponentSpec
                and self.field
                and self.field.kind
                and self.resolve
                and (use := self.effective_use(node))
            ):
                try:
                    config = self.resolve(self.field.kind, use)
                    fields_of(config)
                except Exception:  # It is reported with its place when the value itself is read.
                    return None
                return config
        return None


UNKNOWN_SCHEMA = SchemaHint()
