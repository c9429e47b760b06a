"""A component that a recipe chooses by name, with its options."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from ni_framework.errors import PluginError, RecipeError
from ni_framework.options import Choice
from ni_framework.recipe.fields import Field, fields_of
from ni_framework.recipe.node import BrokenNode, MappingNode, ScalarNode, join
from ni_framework.recipe.parse import MAX_DEPTH
from ni_framework.recipe.plain import BROKEN
from ni_framework.recipe.words import quoted, said, shown

if TYPE_CHECKING:
    from ni_framework.recipe.structure import Structure

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
