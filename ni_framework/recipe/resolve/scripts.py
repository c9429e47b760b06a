"""Completes the scripts of a model: each is the model's own script keys with the script's keys laid over them."""

from __future__ import annotations

from ni_framework.recipe.parsing.nodes import (
    BrokenNode,
    ListNode,
    MappingEntry,
    MappingNode,
    Node,
    count_nodes,
    join_path,
)
from ni_framework.recipe.parsing.parser import MAX_NODES
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.resolve.merge import merge
from ni_framework.recipe.resolve.schema_hints import SchemaHint
from ni_framework.recipe.schema import ModelConfig, ScriptConfig
from ni_framework.recipe.validate.fields import ConfigResolver, fields_of

SCRIPTS_PATH = "model.scripts"


def complete_scripts(tree: MappingNode, problems: Problems, resolve: ConfigResolver) -> MappingNode:
    """The tree with every item of `model.scripts` completed.

    A value that is not a list of mappings stays as it is: the checks of the values report it.

    Args:
        tree: The recipe.
        problems: Collects what is wrong.
        resolve: Gives the `Config` class of a component.
    """
    model = tree.get("model")
    scripts = model.get("scripts") if isinstance(model, MappingNode) else None
    if not isinstance(model, MappingNode) or not isinstance(scripts, ListNode):
        return tree
    items: Node = scripts
    if not scripts.items:
        problems.add(
            SCRIPTS_PATH, "must contain at least one script", scripts.mark, "`{}` is a script with the model's own keys"
        )
        items = BrokenNode(scripts.mark)
    else:
        script_entries = {key: entry for key, entry in model.entries.items() if key in fields_of(ScriptConfig)}
        base = MappingNode(script_entries, model.mark)
        if count_nodes(base) * len(scripts.items) + count_nodes(scripts) > MAX_NODES:
            problems.add(SCRIPTS_PATH, f"the scripts have more than {MAX_NODES} values together", scripts.mark)
            items = BrokenNode(scripts.mark)
        else:
            schema = SchemaHint(ModelConfig, None, resolve)
            items = ListNode(
                [_merge_script(base, item, problems, schema, n) for n, item in enumerate(scripts.items)], scripts.mark
            )
    entries = {**model.entries, "scripts": MappingEntry(model.entries["scripts"].mark, items)}
    model = MappingNode(entries, model.mark)
    return MappingNode({**tree.entries, "model": MappingEntry(tree.entries["model"].mark, model)}, tree.mark)


def _merge_script(base: MappingNode, item: Node, problems: Problems, schema: SchemaHint, number: int) -> Node:
    return (
        merge(base, item, problems, schema, join_path(SCRIPTS_PATH, number)) if isinstance(item, MappingNode) else item
    )
