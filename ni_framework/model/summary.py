"""A recipe's model in words and tables, built without memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from attrs import frozen

from ni_framework.model.compose import build_model
from ni_framework.recipe import Recipe


class Row(NamedTuple):
    """A part of the model or a tensor; equal ones that follow each other are one row, as `scripts.0-21`."""

    name: str
    times: int
    each: int  # numbers in one of them
    shape: tuple[int, ...] | None = None  # of a tensor

    @property
    def total(self) -> int:
        """Numbers in all of them."""
        return self.times * self.each


@frozen
class Description:
    """Sizes of a model, and its parameters by name."""

    sizes: dict[str, Any]
    parameters: list[tuple[str, tuple[int, ...]]]

    @property
    def summary(self) -> str:
        """One line for people."""
        programs = []
        for (functions, iterations), equal in groupby(self.sizes["scripts"]):
            program, number = f"{functions} functions x {iterations} iterations", len(list(equal))
            programs.append(program if number == 1 else f"{number} scripts of {program}")
        return f"{self.sizes['parameters']:,} parameters, {self.sizes['elements']} elements, {', '.join(programs)}"

    @property
    def parts(self) -> list[Row]:
        """The parts of the model in their order, and after each script the parts of it."""
        rows = []
        for top in _branches(self.parameters):
            if top.first != "scripts" or not isinstance(top.below, list):
                rows.append(Row(top.name, top.times, top.numbers))
                continue
            for script in top.below:
                name = f"{top.name}.{script.name}"
                rows.append(Row(name, script.times, script.numbers))
                if isinstance(script.below, list):
                    rows += [Row(f"{name}.{part.name}", script.times, part.numbers) for part in script.below]
        return rows

    @property
    def tensors(self) -> list[Row]:
        """The parameters, the largest first."""
        return sorted(_tensors(_branches(self.parameters)), key=lambda row: -row.total)


def describe(recipe: Recipe) -> Description:
    """Builds the model on the meta device and reads its sizes; raises what `build_model` raises."""
    model = build_model(recipe, "meta")
    parameters = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    sizes = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "elements": len(model.head.start(tuple(model.tasks))[0]) + model.input.num_elements,
        "tasks": model.tasks,
        "scripts": [[script.num_functions, script.iterations] for script in recipe.model.program],
    }
    return Description(sizes, parameters)


class _Branch(NamedTuple):
    """What has a name of its own below a module: a tensor's shape, or branches; `times` equal ones with rising numbers."""

    first: str
    times: int
    below: Any  # tuple[int, ...] | list[_Branch]

    @property
    def name(self) -> str:
        """The key, or the first and the last."""
        return self.first if self.times == 1 else f"{self.first}-{int(self.first) + self.times - 1}"

    @property
    def numbers(self) -> int:
        """Numbers in one of them."""
        if isinstance(self.below, list):
            return sum(branch.times * branch.numbers for branch in self.below)
        return math.prod(self.below)

    def goes_on(self, key: str, below: Any) -> bool:
        """Whether a key is the next number, and what is below it the same."""
        numbered = key.isdecimal() and self.first.isdecimal()
        return numbered and int(key) == int(self.first) + self.times and self.below == below


def _branches(parameters: list[tuple[str, tuple[int, ...]]]) -> list[_Branch]:
    tree: dict[str, Any] = {}
    for name, shape in parameters:
        *path, last = name.split(".")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = shape
    return _merged(tree)


def _merged(tree: Mapping[str, Any]) -> list[_Branch]:
    branches: list[_Branch] = []
    for key, value in tree.items():
        below = _merged(value) if isinstance(value, dict) else value
        if branches and branches[-1].goes_on(key, below):
            branches[-1] = branches[-1]._replace(times=branches[-1].times + 1)
        else:
            branches.append(_Branch(key, 1, below))
    return branches


def _tensors(branches: list[_Branch], prefix: str = "", times: int = 1) -> Iterator[Row]:
    for branch in branches:
        name, number = prefix + branch.name, times * branch.times
        if isinstance(branch.below, list):
            yield from _tensors(branch.below, f"{name}.", number)
        else:
            yield Row(name, number, branch.numbers, branch.below)
