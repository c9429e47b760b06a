"""Reads a tree of nodes into frozen values, and records every problem on the way.

cattrs is not used for this: attrs validators stop at the first failing one of a class and have no places in the text, and
the reader of a recipe should get all problems, each with its line.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin

import attrs

from ni_framework.errors import Mark, NIError, OptionError, PluginError, RecipeError
from ni_framework.options import COMPONENT_NAME, ComponentSpec, find_bound_violation
from ni_framework.recipe.parsing.nodes import (
    BrokenNode,
    ListNode,
    MappingEntry,
    MappingNode,
    Node,
    ScalarNode,
    join_path,
)
from ni_framework.recipe.parsing.parser import MAX_DEPTH
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.wording import (
    closest_word,
    describe_node,
    escape_unprintable,
    join_backquoted,
    quote_text,
    short_error_text,
)
from ni_framework.recipe.validate.fields import (
    ConfigResolver,
    Field,
    RejectedKey,
    fields_of,
    is_config_type,
    is_named_by_use,
    is_open_mapping,
    is_scalar_type,
    rejected_keys_of,
    renamed_keys_of,
    union_members,
)
from ni_framework.recipe.validate.scalar_types import BROKEN, convert_scalar, describe_types, suggest_fix

# Keys of a mapping that names a component which are not options of the component.
_SPEC_KEYS = ("use",)


class StructureReader:
    """Reads nodes into values of declared types, and keeps the place of each value in `marks`, by its key path."""

    def __init__(self, resolve: ConfigResolver, problems: Problems) -> None:
        self.resolve = resolve
        self.problems = problems
        self.marks: dict[str, Mark] = {}

    def read_value(self, annotation: Any, node: Node, path: str, field: Field) -> Any:
        """The value of a node as its annotation reads it.

        Args:
            annotation: The declared type, which may be a union.
            node: What the recipe gives.
            path: The key path of the value, for messages.
            field: The key whose declaration the annotation belongs to.

        Returns:
            The value, or `BROKEN` if there is a problem with it, which is then recorded.
        """
        self.marks[path] = node.mark
        if isinstance(node, BrokenNode):
            return BROKEN
        types = union_members(annotation)
        if isinstance(node, ScalarNode):
            fitting = [item for item in types if is_scalar_type(item)]
            # The exact type comes first, so that 3 stays a whole number where both kinds of number are accepted.
            for item in sorted(fitting, key=lambda item: item is not type(node.value)):
                if (value := convert_scalar(item, node)) is not BROKEN:
                    return self._check_bounds(value, node, path, field)
            component_types = [item for item in types if is_named_by_use(item)]
            if component_types and isinstance(node.value, str) and str not in types:
                entries = {"use": MappingEntry(node.mark, node)}
                return self._read_mapping(component_types[0], MappingNode(entries, node.mark), path, field)
        elif isinstance(node, ListNode):
            for item in types:
                if get_origin(item) is tuple:
                    return self._read_items(get_args(item), node, path, field)
        else:
            for item in types:
                if item is ComponentSpec or is_config_type(item) or is_open_mapping(item):
                    return self._read_mapping(item, node, path, field)
        hint = suggest_fix(types, node) if isinstance(node, ScalarNode) else None
        self.problems.add(path, f"must be {describe_types(types)}, not {describe_node(node)}", node.mark, hint)
        return BROKEN

    def read_config(
        self, cls: type, node: MappingNode, path: str, *, label: str = "", loader_keys: Collection[str] = ()
    ) -> Any:
        """An instance of a config class from the keys of a mapping.

        Args:
            cls: The config class.
            node: The mapping.
            path: The key path of the mapping.
            label: The component whose options these are, for messages; "" for a section of the recipe.
            loader_keys: Keys of the mapping that the loader reads and that are not fields of the class.

        Returns:
            The instance, or `BROKEN`.
        """
        fields = {name: field for name, field in fields_of(cls).items() if name not in loader_keys}
        self._check_keys(fields, rejected_keys_of(cls), node, path, label, loader_keys)
        # A key that is given under its old name counts as given: it is not missing, and the class is not built without it.
        renamed = renamed_keys_of(cls)
        values = {renamed[key]: BROKEN for key in node.entries if key in renamed}
        for name, field in fields.items():
            if name in values and node.get(name) is None:
                continue
            value = self.read_field(field, node, join_path(path, name), label)
            if value is not attrs.NOTHING:
                values[name] = value
        return self.build(cls, values, path, node.mark, label)

    def read_field(self, field: Field, node: MappingNode, path: str, label: str) -> Any:
        """The value of one key of a mapping.

        Args:
            field: The key.
            node: The mapping.
            path: The key path of the value.
            label: The component whose option this is, for messages; "" for a section of the recipe.

        Returns:
            The value; `BROKEN` if there is a problem with it; `attrs.NOTHING` if it is absent and has a default.
        """
        name = field.attribute.name
        value_node = node.get(name)
        if value_node is not None:
            return self.read_value(field.annotation, value_node, path, field)
        if field.attribute.default is not attrs.NOTHING:
            return attrs.NOTHING
        if field.kind and field.default_use:
            return read_component_spec(self, field, MappingNode({}, node.mark), path)
        needed_by = f" ({label} needs it)" if label else ""
        literals = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        hint = f"write `{name}: {literals[0]}`" if len(literals) == 1 else field.help
        self.problems.add(path, f"is missing{needed_by}", node.mark, hint, absent=True)
        return BROKEN

    def build(self, cls: type, values: Mapping[str, Any], path: str, mark: Mark, label: str = "") -> Any:
        """An instance of a config class from its values.

        Args:
            cls: The config class.
            values: The values by name; keys with defaults may be absent.
            path: The key path of the mapping.
            mark: The place of the mapping.
            label: The component whose options these are, for messages.

        Returns:
            The instance; `BROKEN` if one of the values is broken, or if the class rejects them.
        """
        if any(value is BROKEN for value in values.values()):
            return BROKEN
        aliases = {name: field.attribute.alias or name for name, field in fields_of(cls).items()}
        try:
            return cls(**{aliases[name]: value for name, value in values.items()})
        except OptionError as error:
            for fault in (error, *error.others):
                where = join_path(path, fault.option) if fault.option else path
                self.problems.add(where, fault.message, self.nearest_mark(where, mark), fault.hint)
        except NIError as error:
            self.problems.add(path, str(error), mark)
        except Exception as error:  # The code of a component may raise anything.
            failure = f"{label or cls.__name__} failed on its options"
            self.problems.add_plugin(path, f"{failure}: {type(error).__name__}: {short_error_text(error)}", mark)
        return BROKEN

    def nearest_mark(self, path: str, default: Mark) -> Mark:
        """The place of a key path, or of the nearest mapping or list around it that the recipe gives."""
        while path:
            if path in self.marks:
                return self.marks[path]
            path = path.rpartition(".")[0]
        return default

    def _check_bounds(self, value: Any, node: ScalarNode, path: str, field: Field) -> Any:
        if "bounds" in field.attribute.metadata and (message := find_bound_violation(field.attribute, value)):
            self.problems.add(path, message, node.mark)
            return BROKEN
        return value

    def _read_items(self, types: tuple[Any, ...], node: ListNode, path: str, field: Field) -> Any:
        if len(types) == 2 and types[1] is Ellipsis:
            types = types[:1] * len(node.items)
        elif types == ((),):
            types = ()
        if len(types) != len(node.items):
            self.problems.add(path, f"must be a list of {len(types)}, not of {len(node.items)}", node.mark)
            return BROKEN
        values = [
            self.read_value(kind, item, join_path(path, number), field)
            for number, (kind, item) in enumerate(zip(types, node.items, strict=True))
        ]
        return BROKEN if any(value is BROKEN for value in values) else tuple(values)

    def _read_mapping(self, annotation: Any, node: MappingNode, path: str, field: Field) -> Any:
        if annotation is ComponentSpec:
            return read_component_spec(self, field, node, path)
        if is_config_type(annotation):
            return self.read_config(annotation, node, path)
        _, kind = get_args(annotation)
        values = {
            name: self.read_value(kind, entry.node, join_path(path, name), field)
            for name, entry in node.entries.items()
        }
        return BROKEN if any(value is BROKEN for value in values.values()) else values

    def _check_keys(
        self,
        fields: Collection[str],
        rejected: Mapping[str, RejectedKey],
        node: MappingNode,
        path: str,
        label: str,
        loader_keys: Collection[str],
    ) -> None:
        known = [*loader_keys, *fields]
        for key, entry in node.entries.items():
            if key in known:
                continue
            if key in rejected:
                message, hint = rejected[key]
                self.problems.add(join_path(path, key), message, entry.mark, hint)
                continue
            hint = None if self.problems.is_full else self._unknown_key_hint(key, known, rejected)
            suffix = f" of {label}" if label else ""
            self.problems.add(join_path(path, escape_unprintable(key)), f"unknown key{suffix}", entry.mark, hint)

    @staticmethod
    def _unknown_key_hint(key: str, known: Collection[str], rejected: Mapping[str, RejectedKey]) -> str:
        if ":" in key:
            return "a `:` after a key must be followed by a space"
        if "." in key:
            return f"keys of a recipe are nested; {quote_text(key)} is a key path as the command line takes it"
        close = closest_word(key, [*known, *rejected])
        if close is not None and close in rejected:
            message, hint = rejected[close]
            return f"did you mean `{close}`? It {message}; {hint}"
        return f"did you mean `{close}`?" if close else f"known keys: {join_backquoted(known)}"


def read_component_spec(structure: StructureReader, field: Field, node: MappingNode, path: str) -> Any:
    """The component that a mapping names, or the default one, with its options checked by the component's `Config`.

    Args:
        structure: The reader that collects problems and places.
        field: The key that chooses the component.
        node: The mapping, with `use` and the options.
        path: The key path of the mapping.

    Returns:
        A `ComponentSpec`, or `BROKEN`.
    """
    kind = field.kind
    assert kind is not None  # `fields_of` rejects a `ComponentSpec` that is not declared with `component_option`.
    name = _read_component_name(structure, field, node, path)
    if name is None:
        return BROKEN
    mark = structure.marks.get(join_path(path, "use"), node.mark)
    label = f"{kind} `{name}`"
    if path.count(".") > 2 * MAX_DEPTH:
        # Deeper than any recipe: each default component contains another default component.
        structure.problems.add_plugin(path, f"the default components inside of {label} never end", mark)
        return BROKEN
    try:
        config = structure.resolve(kind, name)
    except (RecipeError, PluginError) as error:
        add = structure.problems.add_unknown if isinstance(error, RecipeError) else structure.problems.add_plugin
        for problem in error.problems:
            add(path, problem.message, problem.mark or mark, problem.hint, absent=node.get("use") is None)
        return BROKEN
    try:
        fields_of(config)
    except Exception as error:  # Annotations are code of the component, which may raise anything.
        structure.problems.add_plugin(path, f"the Config of {label} cannot be read: {short_error_text(error)}", mark)
        return BROKEN
    label += ", the default," if node.get("use") is None else ""
    options = structure.read_config(config, node, path, label=label, loader_keys=_SPEC_KEYS)
    return BROKEN if options is BROKEN else ComponentSpec(name, options, path)


def _read_component_name(structure: StructureReader, field: Field, node: MappingNode, path: str) -> str | None:
    use_node = node.get("use")
    use_path = join_path(path, "use")
    if use_node is None:
        if field.default_use is None:
            structure.problems.add(
                use_path, "is missing", node.mark, f"name a component of kind `{field.kind}`", absent=True
            )
            # Without a name the other keys cannot be checked, but a misspelt `use` can be reported.
            for key in difflib.get_close_matches("use", node.entries, n=1):
                structure.problems.add(
                    join_path(path, key), "unknown key", node.entries[key].mark, "did you mean `use`?"
                )
        return field.default_use
    structure.marks[use_path] = use_node.mark
    if isinstance(use_node, BrokenNode):
        return None
    if not isinstance(use_node, ScalarNode) or not isinstance(use_node.value, str):
        message = f"must be the name of a component, not {describe_node(use_node)}"
        structure.problems.add(use_path, message, use_node.mark)
        return None
    if not COMPONENT_NAME.fullmatch(use_node.value):
        hint = "names are lower-case words such as `top_k`; a recipe cannot name code"
        message = f"{quote_text(use_node.value)} cannot be the name of a component"
        structure.problems.add(use_path, message, use_node.mark, hint)
        return None
    return use_node.value
