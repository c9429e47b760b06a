"""What differs between two checkpoints: recipe, parameters, lock, and on request who takes which element."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from attrs import evolve, frozen
from torch import Tensor

from ni_framework.engine.checkpoint import inference_weights, read_lock, read_recipe
from ni_framework.engine.manifest import AVERAGE, Manifest, read_manifest
from ni_framework.engine.moved import Moved, moved
from ni_framework.engine.provenance import flat
from ni_framework.engine.stored import Stored
from ni_framework.errors import NIError
from ni_framework.model.compose import build_model
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
    per_function = of_functions(recipes[0]) & of_functions(recipes[1])
    parameters = [found for name in names if (found := _parameter(name, stored[0], stored[1], name in per_function))]
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


def of_functions(recipe: Recipe) -> set[str]:
    """The tensors of a recipe's model that have a row for each function: those that grow when each script gets one more.

    None where a component cannot have one more.
    """
    model = recipe.model
    scripts = model.scripts
    if isinstance(scripts, tuple):
        scripts = tuple(evolve(script, functions=script.functions + 1) for script in scripts)
    larger = evolve(recipe, model=evolve(model, functions=model.functions + 1, scripts=scripts))
    try:
        shapes, grown = _shapes(recipe), _shapes(larger)
    except NIError:
        return set()
    return {name for name, shape in shapes.items() if shape and grown.get(name) == [shape[0] + 1, *shape[1:]]}


def _shapes(recipe: Recipe) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in build_model(recipe, "meta").state_dict().items()}


def _parameter(name: str, a: Stored, b: Stored, per_function: bool) -> ParameterChange | None:
    """What differs in a tensor; None if nothing does."""
    shape_a, shape_b = (of.shape(name) if name in of else None for of in (a, b))
    if shape_a is None or shape_b is None:
        return ParameterChange(name, shape_a, shape_b, None, [])
    rows_alike = per_function and shape_a[1:] == shape_b[1:]
    if shape_a != shape_b and not rows_alike:
        return ParameterChange(name, shape_a, shape_b, None, [])
    one, other = a.read(name), b.read(name)
    if shape_a != shape_b:
        return ParameterChange(name, shape_a, shape_b, None, [*_rows(one, other)])
    if torch.equal(one, other):
        return None
    rows = [*_rows(one, other)] if per_function else []
    some_only = per_function and len(rows) < shape_a[0]
    return ParameterChange(name, shape_a, shape_b, _change(one, other), rows if some_only else [])


def _rows(a: Tensor, b: Tensor) -> Iterator[FunctionChange]:
    """The rows that differ, and those that only one side has."""
    common = min(len(a), len(b))
    for number in range(max(len(a), len(b))):
        if number >= common:
            yield FunctionChange(f"f{number}", None, "A" if len(a) > len(b) else "B")
        elif not torch.equal(a[number], b[number]):
            yield FunctionChange(f"f{number}", _change(a[number], b[number]), None)


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
