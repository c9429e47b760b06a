"""A recipe's model summarized as text and tables, on the meta device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from attrs import frozen

from ni_framework.model.compose import build_model
from ni_framework.recipe import Recipe


class SummaryRow(NamedTuple):
    """A module or a tensor; equal ones that follow each other share one row, as `scripts.0-21`."""

    name: str
    repeats: int
    # The number of elements in one of them.
    numel: int
    # None for a module.
    shape: tuple[int, ...] | None = None

    @property
    def total_numel(self) -> int:
        """The number of elements in all of them."""
        return self.repeats * self.numel


@frozen
class ModelSummary:
    """The sizes of a model, and the shapes of its parameters by name."""

    sizes: dict[str, Any]
    parameters: list[tuple[str, tuple[int, ...]]]

    @property
    def one_line(self) -> str:
        """The summary in one line."""
        programs = []
        for (functions, iterations), equal in groupby(self.sizes["scripts"]):
            program, number = f"{functions} functions x {iterations} iterations", len(list(equal))
            programs.append(program if number == 1 else f"{number} scripts of {program}")
        return f"{self.sizes['parameters']:,} parameters, {self.sizes['elements']} elements, {', '.join(programs)}"

    @property
    def module_rows(self) -> list[SummaryRow]:
        """The modules of the model in their order; each script is followed by its components."""
        rows = []
        for branch in _build_branches(self.parameters):
            if branch.first_key != "scripts" or not isinstance(branch.children, list):
                rows.append(SummaryRow(branch.name, branch.repeats, branch.numel))
                continue
            for script in branch.children:
                name = f"{branch.name}.{script.name}"
                rows.append(SummaryRow(name, script.repeats, script.numel))
                if isinstance(script.children, list):
                    rows += [SummaryRow(f"{name}.{part.name}", script.repeats, part.numel) for part in script.children]
        return rows

    @property
    def tensor_rows(self) -> list[SummaryRow]:
        """The parameters, the largest first."""
        return sorted(_iter_tensor_rows(_build_branches(self.parameters)), key=lambda row: -row.total_numel)


def summarize_model(recipe: Recipe) -> ModelSummary:
    """Builds the model on the meta device and returns its sizes. Raises what `build_model` raises."""
    model = build_model(recipe, "meta")
    parameters = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    sizes = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "elements": len(model.head.cls_tokens(tuple(model.tasks))[0]) + model.input.num_elements,
        "tasks": model.tasks,
        "scripts": [[script.num_functions, script.iterations] for script in recipe.model.program],
    }
    return ModelSummary(sizes, parameters)


class _Branch(NamedTuple):
    """A tensor or a module by its key in the parent module, with the equal ones of the next numbers merged into it."""

    first_key: str
    repeats: int
    # The shape of a tensor, tuple[int, ...], or the branches of a module, list[_Branch].
    children: Any

    @property
    def name(self) -> str:
        """The key, or the first and the last key."""
        return self.first_key if self.repeats == 1 else f"{self.first_key}-{int(self.first_key) + self.repeats - 1}"

    @property
    def numel(self) -> int:
        """The number of elements in one of them."""
        if isinstance(self.children, list):
            return sum(branch.repeats * branch.numel for branch in self.children)
        return math.prod(self.children)

    def continues_with(self, key: str, children: Any) -> bool:
        """Whether a key is the next number and its children are the same."""
        numbered = key.isdecimal() and self.first_key.isdecimal()
        return numbered and int(key) == int(self.first_key) + self.repeats and self.children == children


def _build_branches(parameters: list[tuple[str, tuple[int, ...]]]) -> list[_Branch]:
    tree: dict[str, Any] = {}
    for name, shape in parameters:
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = shape
    return _merge_equal_branches(tree)


def _merge_equal_branches(tree: Mapping[str, Any]) -> list[_Branch]:
    branches: list[_Branch] = []
    for key, value in tree.items():
        children = _merge_equal_branches(value) if isinstance(value, dict) else value
        if branches and branches[-1].continues_with(key, children):
            branches[-1] = branches[-1]._replace(repeats=branches[-1].repeats + 1)
        else:
            branches.append(_Branch(key, 1, children))
    return branches


def _iter_tensor_rows(branches: list[_Branch], prefix: str = "", repeats: int = 1) -> Iterator[SummaryRow]:
    for branch in branches:
        name, total_repeats = prefix + branch.name, repeats * branch.repeats
        if isinstance(branch.children, list):
            yield from _iter_tensor_rows(branch.children, f"{name}.", total_repeats)
        else:
            yield SummaryRow(name, total_repeats, branch.numel, branch.children)
