"""The scripts of a model: each is the model's own script keys with the few that differ laid over them."""

from __future__ import annotations

from ni_framework.recipe.parsing.nodes import BrokenNode, Entry, ListNode, MappingNode, Node, join, size
from ni_framework.recipe.parsing.parser import MAX_NODES
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.resolve.merge import merge
from ni_framework.recipe.resolve.schema_hints import Outline
from ni_framework.recipe.schema import Model, Script
from ni_framework.recipe.validate.fields import Resolve, fields_of

PATH = "model.scripts"


def complete(tree: MappingNode, problems: Problems, resolve: Resolve) -> MappingNode:
    """The tree with every item of `model.scripts` complete; what is no list of mappings is left to the checks."""
    model = tree.get("model")
    scripts = model.get("scripts") if isinstance(model, MappingNode) else None
    if not isinstance(model, MappingNode) or not isinstance(scripts, ListNode):
        return tree
    items: Node = scripts
    if not scripts.items:
        problems.add(PATH, "must hold at least one script", scripts.mark, "`{}` is a script like the model's own keys")
        items = BrokenNode(scripts.mark)
    else:
        own = {key: entry for key, entry in model.entries.items() if key in fields_of(Script)}
        base = MappingNode(own, model.mark)
        if size(base) * len(scripts.items) + size(scripts) > MAX_NODES:
            problems.add(PATH, f"the scripts hold more than {MAX_NODES} values together", scripts.mark)
            items = BrokenNode(scripts.mark)
        else:
            outline = Outline(Model, None, resolve)
            items = ListNode(
                [_over(base, item, problems, outline, n) for n, item in enumerate(scripts.items)], scripts.mark
            )
    entries = {**model.entries, "scripts": Entry(model.entries["scripts"].mark, items)}
    model = MappingNode(entries, model.mark)
    return MappingNode({**tree.entries, "model": Entry(tree.entries["model"].mark, model)}, tree.mark)


def _over(base: MappingNode, item: Node, problems: Problems, outline: Outline, number: int) -> Node:
    return merge(base, item, problems, outline, join(PATH, number)) if isinstance(item, MappingNode) else item
