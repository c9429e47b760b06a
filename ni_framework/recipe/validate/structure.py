"""A tree of nodes to frozen values, with every problem noted on the way.

Written by hand rather than with cattrs: that stops at the first failing validator of a class and knows no places, and a
reader of a recipe is owed all problems and the line of each.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import attrs

from ni_framework.errors import Mark, NIError, OptionError, PluginError, RecipeError
from ni_framework.options import Choice, violation
from ni_framework.recipe.parsing.nodes import BrokenNode, Entry, ListNode, MappingNode, Node, ScalarNode, join
from ni_framework.recipe.parsing.parser import MAX_DEPTH
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.wording import closest, listed, printable, quoted, said, shown
from ni_framework.recipe.validate.fields import (
    Field,
    Refusal,
    Resolve,
    fields_of,
    is_choice,
    is_config,
    is_free,
    is_plain,
    members,
    refusals_of,
)
from ni_framework.recipe.validate.scalar_types import BROKEN, advice, expected, plain

if TYPE_CHECKING:
    from ni_framework.recipe.validate.structure import Structure


class Structure:
    """Reads nodes into values of declared types, and keeps the place of each."""

    def __init__(self, resolve: Resolve, problems: Problems) -> None:
        self.resolve = resolve
        self.problems = problems
        self.marks: dict[str, Mark] = {}

    def value(self, annotation: Any, node: Node, path: str, field: Field) -> Any:
        """The value of a node as a type reads it, `BROKEN` where something is wrong."""
        self.marks[path] = node.mark
        if isinstance(node, BrokenNode):
            return BROKEN
        types = members(annotation)
        if isinstance(node, ScalarNode):
            fitting = [item for item in types if is_plain(item)]
            # The exact type first, so that 3 stays whole where both kinds of number are welcome.
            for item in sorted(fitting, key=lambda item: item is not type(node.value)):
                if (value := plain(item, node)) is not BROKEN:
                    return self._bounded(value, node, path, field)
            named = [item for item in types if is_choice(item)]
            if named and isinstance(node.value, str) and str not in types:
                entries = {"use": Entry(node.mark, node)}
                return self._collection(named[0], MappingNode(entries, node.mark), path, field)
        elif isinstance(node, ListNode):
            for item in types:
                if get_origin(item) is tuple:
                    return self._items(get_args(item), node, path, field)
        else:
            for item in types:
                if item is Choice or is_config(item) or is_free(item):
                    return self._collection(item, node, path, field)
        hint = advice(types, node) if isinstance(node, ScalarNode) else None
        self.problems.add(path, f"must be {expected(types)}, not {shown(node)}", node.mark, hint)
        return BROKEN

    def config(self, cls: type, node: MappingNode, path: str, *, label: str = "", own: Collection[str] = ()) -> Any:
        """An instance of a config class from the keys of a mapping.

        `label` names the component whose options these are; keys in `own` belong to the loader and not to the class.
        """
        fields = {name: field for name, field in fields_of(cls).items() if name not in own}
        self._check_keys(fields, refusals_of(cls), node, path, label, own)
        values = {}
        for name, field in fields.items():
            value = self.field(field, node, join(path, name), label)
            if value is not attrs.NOTHING:
                values[name] = value
        return self.build(cls, values, path, node.mark, label)

    def field(self, field: Field, node: MappingNode, path: str, label: str) -> Any:
        """The value of one key of a mapping, `NOTHING` where it is absent and has a default."""
        name = field.attribute.name
        inner = node.get(name)
        if inner is not None:
            return self.value(field.annotation, inner, path, field)
        if field.attribute.default is not attrs.NOTHING:
            return attrs.NOTHING
        if field.kind and field.use:
            return read_choice(self, field, MappingNode({}, node.mark), path)
        needed = f" ({label} needs it)" if label else ""
        only = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        hint = f"write `{name}: {only[0]}`" if len(only) == 1 else field.help
        self.problems.add(path, f"is missing{needed}", node.mark, hint, absent=True)
        return BROKEN

    def build(self, cls: type, values: Mapping[str, Any], path: str, mark: Mark, label: str = "") -> Any:
        """An instance of a config class, `BROKEN` where one of its values is, or where the class itself objects."""
        if any(value is BROKEN for value in values.values()):
            return BROKEN
        aliases = {name: field.attribute.alias or name for name, field in fields_of(cls).items()}
        try:
            return cls(**{aliases[name]: value for name, value in values.items()})
        except OptionError as error:
            for fault in (error, *error.also):
                where = join(path, fault.option) if fault.option else path
                self.problems.add(where, fault.message, self.nearest(where, mark), fault.hint)
        except NIError as error:
            self.problems.add(path, str(error), mark)
        except Exception as error:  # a component's own code, of which nothing is known
            what = f"{label or cls.__name__} failed on its options"
            self.problems.add_plugin(path, f"{what}: {type(error).__name__}: {said(error)}", mark)
        return BROKEN

    def nearest(self, path: str, otherwise: Mark) -> Mark:
        """The place of a key path, or of the nearest part around it that the recipe gives."""
        while path:
            if path in self.marks:
                return self.marks[path]
            path = path.rpartition(".")[0]
        return otherwise

    def _bounded(self, value: Any, node: ScalarNode, path: str, field: Field) -> Any:
        if "bounds" in field.attribute.metadata and (message := violation(field.attribute, value)):
            self.problems.add(path, message, node.mark)
            return BROKEN
        return value

    def _items(self, types: tuple[Any, ...], node: ListNode, path: str, field: Field) -> Any:
        if len(types) == 2 and types[1] is Ellipsis:
            types = types[:1] * len(node.items)
        elif types == ((),):
            types = ()
        if len(types) != len(node.items):
            self.problems.add(path, f"must be a list of {len(types)}, not of {len(node.items)}", node.mark)
            return BROKEN
        values = [
            self.value(kind, item, join(path, number), field)
            for number, (kind, item) in enumerate(zip(types, node.items, strict=True))
        ]
        return BROKEN if any(value is BROKEN for value in values) else tuple(values)

    def _collection(self, annotation: Any, node: MappingNode, path: str, field: Field) -> Any:
        if annotation is Choice:
            return read_choice(self, field, node, path)
        if is_config(annotation):
            return self.config(annotation, node, path)
        _, kind = get_args(annotation)
        values = {name: self.value(kind, entry.node, join(path, name), field) for name, entry in node.entries.items()}
        return BROKEN if any(value is BROKEN for value in values.values()) else values

    def _check_keys(
        self,
        fields: Collection[str],
        refused: Mapping[str, Refusal],
        node: MappingNode,
        path: str,
        label: str,
        own: Collection[str],
    ) -> None:
        known = [*own, *fields]
        for key, entry in node.entries.items():
            if key in known:
                continue
            if key in refused:
                message, hint = refused[key]
                self.problems.add(join(path, key), message, entry.mark, hint)
                continue
            hint = None if self.problems.full else self._known(key, known, refused)
            of = f" of {label}" if label else ""
            self.problems.add(join(path, printable(key)), f"unknown key{of}", entry.mark, hint)

    @staticmethod
    def _known(key: str, known: Collection[str], refused: Mapping[str, Refusal]) -> str:
        if ":" in key:
            return "a `:` after a key needs a space behind it"
        if "." in key:
            return f"in a recipe keys are nested: {quoted(key)} is for the command line"
        close = closest(key, [*known, *refused])
        if close is not None and close in refused:
            message, hint = refused[close]
            return f"did you mean `{close}`? It {message}; {hint}"
        return f"did you mean `{close}`?" if close else f"known keys: {listed(known)}"


_NAME = re.compile(r"[a-z][a-z0-9_]*")


_OWN = ("use",)  # the keys of a choice that are no options of its component


def read_choice(structure: Structure, field: Field, node: MappingNode, path: str) -> Any:
    """The component that a mapping names, or the default one, with its options checked by its own `Config`."""
    kind = field.kind
    assert kind is not None  # `fields_of` refuses a `Choice` that is not declared with `component`
    name = _name(structure, field, node, path)
    if name is None:
        return BROKEN
    mark = structure.marks.get(join(path, "use"), node.mark)
    label = f"{kind} `{name}`"
    if path.count(".") > 2 * MAX_DEPTH:  # deeper than any recipe: each default asks for another one
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
    except Exception as error:  # annotations are code of the component, of which nothing is known
        structure.problems.add_plugin(path, f"the Config of {label} cannot be read: {said(error)}", mark)
        return BROKEN
    label += ", the default," if node.get("use") is None else ""
    options = structure.config(config, node, path, label=label, own=_OWN)
    return BROKEN if options is BROKEN else Choice(name, options, path)


def _name(structure: Structure, field: Field, node: MappingNode, path: str) -> str | None:
    given = node.get("use")
    here = join(path, "use")
    if given is None:
        if field.use is None:
            structure.problems.add(
                here, "is missing", node.mark, f"name a component of kind `{field.kind}`", absent=True
            )
            for key in difflib.get_close_matches("use", node.entries, n=1):  # its other keys wait for the name
                structure.problems.add(join(path, key), "unknown key", node.entries[key].mark, "did you mean `use`?")
        return field.use
    structure.marks[here] = given.mark
    if isinstance(given, BrokenNode):
        return None
    if not isinstance(given, ScalarNode) or not isinstance(given.value, str):
        structure.problems.add(here, f"must be the name of a component, not {shown(given)}", given.mark)
        return None
    if not _NAME.fullmatch(given.value):
        hint = "names are lower-case words such as `top_k`; a recipe cannot name code"
        structure.problems.add(here, f"{quoted(given.value)} cannot be the name of a component", given.mark, hint)
        return None
    return given.value
