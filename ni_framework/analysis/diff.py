"""What differs between two checkpoints: recipe, parameters, lock, and on request who takes which element."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.analysis.routing_diff import Moved, moved
from ni_framework.checkpoint.load import inference_weights, read_lock, read_recipe
from ni_framework.checkpoint.lockfile import flat
from ni_framework.checkpoint.manifest import AVERAGE, Manifest, read_manifest
from ni_framework.checkpoint.reader import Stored
from ni_framework.errors import NIError
from ni_framework.growth.transplant import Function, outline_of
from ni_framework.recipe import Recipe, plain_values

Only = Literal["A", "B"]
IN_RECIPE = ("seed", "options")  # keys of a lock that say what the recipe says


@frozen
class Side:
    """One of the two checkpoints."""

    checkpoint: str
    recipe: str
    step: int
    weights: str  # "averaged" or "last"


@frozen
class Change:
    """A key of which the values differ, or that only one side has."""

    key: str
    a: Any
    b: Any
    only_in: Only | None


@frozen
class FunctionChange:
    """A function's row of a tensor: the norm of its difference, in parts of the norm in A; infinite where that is 0."""

    name: str
    change: float | None  # None where only one side has the function
    only_in: Only | None


@frozen
class ParameterChange:
    """A tensor that differs. `functions` are told where some have changed and others not, or one side has more of them."""

    name: str
    shape_a: list[int] | None
    shape_b: list[int] | None
    change: float | None  # as of a function; None for other shapes
    functions: list[FunctionChange]


@frozen
class Difference:
    """What differs between two checkpoints, and how many tensors do not."""

    a: Side
    b: Side
    recipe: list[Change]
    parameters: list[ParameterChange]
    equal_parameters: int
    lock: list[Change]
    routing: Moved | None


def diff_checkpoints(a: Path, b: Path, routing: bool = False) -> Difference:
    """Compares two checkpoints, by the weights to infer with; with `routing` also what `moved` tells.

    Raises `CheckpointError` for what is no whole checkpoint, `PluginError` where a component is absent, and with routing what
    `moved` raises.
    """
    manifests = read_manifest(a), read_manifest(b)
    recipes = read_recipe(a, manifests[0]), read_recipe(b, manifests[1])
    stored = [Stored(of, m, inference_weights(m)) for of, m in zip((a, b), manifests, strict=True)]
    names = dict.fromkeys([*stored[0], *stored[1]])
    owners = [_functions_of(recipe) for recipe in recipes]
    parameters = [found for name in names if (found := _parameter(name, stored, [of.get(name) for of in owners]))]
    locks = [_without_recipe(read_lock(of, m)) for of, m in zip((a, b), manifests, strict=True)]
    return Difference(
        a=_side(a, manifests[0]),
        b=_side(b, manifests[1]),
        recipe=changed(plain_values(recipes[0]), plain_values(recipes[1])),
        parameters=parameters,
        equal_parameters=len(names) - len(parameters),
        lock=changed(locks[0], locks[1]),
        routing=moved(a, b) if routing else None,
    )


def changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """The keys of two documents of mappings of which the values differ, in their order, those that only B has last."""
    old, new = dict(flat(a)), dict(flat(b))
    absent = object()
    changes = []
    for key in dict.fromkeys([*old, *new]):
        then, now = old.get(key, absent), new.get(key, absent)
        if then is absent or now is absent or then != now or type(then) is not type(now):
            only: Only | None = "B" if then is absent else "A" if now is absent else None
            changes.append(Change(key, old.get(key), new.get(key), only))
    return changes


def _functions_of(recipe: Recipe) -> Mapping[str, list[Function]]:
    """Of each tensor of a recipe's model that has a row for each function: whose they are; none where it cannot grow."""
    try:
        return outline_of(recipe).rows
    except NIError:
        return {}


def _parameter(name: str, stored: Sequence[Stored], owners: Sequence[list[Function] | None]) -> ParameterChange | None:
    """What differs in a tensor, told by functions where both sides have some of its rows for each; None if nothing does."""
    a, b = stored
    shape_a, shape_b = (of.shape(name) if name in of else None for of in stored)
    if shape_a is None or shape_b is None:
        return ParameterChange(name, shape_a, shape_b, None, [])
    of_a, of_b = owners if shape_a[1:] == shape_b[1:] else (None, None)
    if shape_a != shape_b and (of_a is None or of_b is None):
        return ParameterChange(name, shape_a, shape_b, None, [])
    one, other = a.read(name), b.read(name)
    if of_a == of_b and torch.equal(one, other):
        return None
    rows = [] if of_a is None or of_b is None else [*_rows(one, other, of_a, of_b)]
    if shape_a != shape_b:
        return ParameterChange(name, shape_a, shape_b, None, rows)
    some_only = rows if rows and len(rows) < shape_a[0] else []
    return ParameterChange(name, shape_a, shape_b, _change(one, other), some_only)


def _rows(a: Tensor, b: Tensor, of_a: list[Function], of_b: list[Function]) -> Iterator[FunctionChange]:
    """The functions of which the rows differ, and those that only one side has."""
    rows_a, rows_b = ({function.number: row for row, function in enumerate(of)} for of in (of_a, of_b))
    for number in sorted(rows_a.keys() | rows_b.keys()):
        if number not in rows_a or number not in rows_b:
            yield FunctionChange(f"f{number}", None, "A" if number in rows_a else "B")
        elif not torch.equal(one := a[rows_a[number]], other := b[rows_b[number]]):
            yield FunctionChange(f"f{number}", _change(one, other), None)


def _change(a: Tensor, b: Tensor) -> float:
    norm = a.double().norm().item()
    return (b.double() - a.double()).norm().item() / norm if norm else math.inf


def _without_recipe(lock: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_recipe(value) if isinstance(value, Mapping) else value
        for name, value in lock.items()
        if name not in IN_RECIPE
    }


def _side(folder: Path, manifest: Manifest) -> Side:
    weights = "averaged" if inference_weights(manifest) == AVERAGE else "last"
    return Side(str(folder), manifest.name, manifest.step, weights)
