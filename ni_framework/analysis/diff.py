"""The differences between two checkpoints: recipe, parameters, lockfile, and optionally routing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from attrs import frozen
from torch import Tensor

from ni_framework.analysis.routing_diff import RoutingDiff, diff_routing
from ni_framework.checkpoint.load import inference_weights_file, read_lockfile, read_recipe
from ni_framework.checkpoint.lockfile import flatten
from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, Manifest, read_manifest
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.errors import NIError
from ni_framework.growth.transplant import FunctionRef, infer_function_rows
from ni_framework.recipe import Recipe, to_plain_values

SideName = Literal["A", "B"]
# Keys of a lockfile that repeat values of the recipe.
RECIPE_KEYS_IN_LOCKFILE = ("seed", "options")


@frozen
class CheckpointSide:
    """One of the two checkpoints."""

    checkpoint: str
    recipe: str
    step: int
    weights: str  # "averaged" (the EMA weights) or "last"


@frozen
class ValueChange:
    """A key whose values differ, or that only one side has."""

    key: str
    a: Any
    b: Any
    only_in: SideName | None


@frozen
class FunctionChange:
    """The change of one function's row of a tensor.

    `change` is |b - a| / |a|, which is infinite if a is 0, and None if only one side has the function.
    """

    name: str
    change: float | None
    only_in: SideName | None


@frozen
class ParameterChange:
    """A tensor that differs.

    `change` is |b - a| / |a|, and None if the shapes differ. `functions` lists the changed functions if only some of
    them have changed, or if one side has more functions.
    """

    name: str
    shape_a: list[int] | None
    shape_b: list[int] | None
    change: float | None
    functions: list[FunctionChange]


@frozen
class CheckpointDiff:
    """The differences between two checkpoints, and the number of equal tensors."""

    a: CheckpointSide
    b: CheckpointSide
    recipe: list[ValueChange]
    parameters: list[ParameterChange]
    equal_parameters: int
    lock: list[ValueChange]
    routing: RoutingDiff | None


def diff_checkpoints(a: Path, b: Path, routing: bool = False) -> CheckpointDiff:
    """Compares two checkpoints by the weights that are used for inference.

    Args:
        a: The folder of the first checkpoint.
        b: The folder of the second checkpoint.
        routing: Whether to compare the routing of both models, too (`diff_routing`).

    Raises:
        CheckpointError: A checkpoint is incomplete or damaged.
        PluginError: A component of a checkpoint is missing.
        UsageError: The routing of the two models cannot be compared.
    """
    folders = a, b
    manifests = [read_manifest(folder) for folder in folders]
    sides = list(zip(folders, manifests, strict=True))
    recipes = [read_recipe(folder, manifest) for folder, manifest in sides]
    readers = [TensorReader(folder, manifest, inference_weights_file(manifest)) for folder, manifest in sides]
    names = dict.fromkeys([*readers[0], *readers[1]])
    owners = [_row_owners(recipe) for recipe in recipes]
    changes = [_diff_parameter(name, readers, [rows.get(name) for rows in owners]) for name in names]
    parameters = [change for change in changes if change is not None]
    locks = [_without_recipe_keys(read_lockfile(folder, manifest)) for folder, manifest in sides]
    return CheckpointDiff(
        a=_describe_side(a, manifests[0]),
        b=_describe_side(b, manifests[1]),
        recipe=diff_values(to_plain_values(recipes[0]), to_plain_values(recipes[1])),
        parameters=parameters,
        equal_parameters=len(names) - len(parameters),
        lock=diff_values(locks[0], locks[1]),
        routing=diff_routing(a, b) if routing else None,
    )


def diff_values(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[ValueChange]:
    """Returns the keys of two nested mappings whose values differ, in their order; keys that only B has come last."""
    old, new = dict(flatten(a)), dict(flatten(b))
    absent = object()
    changes = []
    for key in dict.fromkeys([*old, *new]):
        old_value, new_value = old.get(key, absent), new.get(key, absent)
        if (
            old_value is absent
            or new_value is absent
            or old_value != new_value
            or type(old_value) is not type(new_value)
        ):
            only_in: SideName | None = "B" if old_value is absent else "A" if new_value is absent else None
            changes.append(ValueChange(key, old.get(key), new.get(key), only_in))
    return changes


def diff_to_json(diff: CheckpointDiff) -> dict[str, Any]:
    """Returns the document that `ni diff --json` prints, in which `IterationConfusion.reassigned` is called "moved"."""
    document = attrs.asdict(diff)
    for script in document["routing"]["scripts"] if document["routing"] else ():
        for iteration in script["iterations"]:
            iteration["moved"] = iteration.pop("reassigned")
    return document


def _row_owners(recipe: Recipe) -> Mapping[str, list[FunctionRef]]:
    """Returns the function of each row, for all tensors with one row for each function; nothing if the model cannot grow."""
    try:
        return infer_function_rows(recipe).rows
    except NIError:
        return {}


def _diff_parameter(
    name: str, readers: Sequence[TensorReader], owners: Sequence[list[FunctionRef] | None]
) -> ParameterChange | None:
    """Compares a tensor, row by row if both sides have rows for functions. Returns None if it is equal on both sides."""
    a, b = readers
    shape_a, shape_b = (reader.shape(name) if name in reader else None for reader in readers)
    if shape_a is None or shape_b is None:
        return ParameterChange(name, shape_a, shape_b, None, [])
    owners_a, owners_b = owners if shape_a[1:] == shape_b[1:] else (None, None)
    if shape_a != shape_b and (owners_a is None or owners_b is None):
        return ParameterChange(name, shape_a, shape_b, None, [])
    tensor_a, tensor_b = a.read(name), b.read(name)
    if owners_a == owners_b and torch.equal(tensor_a, tensor_b):
        return None
    rows = [] if owners_a is None or owners_b is None else [*_diff_rows(tensor_a, tensor_b, owners_a, owners_b)]
    if shape_a != shape_b:
        return ParameterChange(name, shape_a, shape_b, None, rows)
    changed_functions = rows if rows and len(rows) < shape_a[0] else []
    return ParameterChange(name, shape_a, shape_b, _relative_change(tensor_a, tensor_b), changed_functions)


def _diff_rows(
    a: Tensor, b: Tensor, owners_a: list[FunctionRef], owners_b: list[FunctionRef]
) -> Iterator[FunctionChange]:
    """Yields the functions whose rows differ, and those that only one side has."""
    rows_a, rows_b = ({function.number: row for row, function in enumerate(owners)} for owners in (owners_a, owners_b))
    for number in sorted(rows_a.keys() | rows_b.keys()):
        if number not in rows_a or number not in rows_b:
            yield FunctionChange(f"f{number}", None, "A" if number in rows_a else "B")
        elif not torch.equal(row_a := a[rows_a[number]], row_b := b[rows_b[number]]):
            yield FunctionChange(f"f{number}", _relative_change(row_a, row_b), None)


def _relative_change(a: Tensor, b: Tensor) -> float:
    norm = a.double().norm().item()
    return (b.double() - a.double()).norm().item() / norm if norm else math.inf


def _without_recipe_keys(lock: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_recipe_keys(value) if isinstance(value, Mapping) else value
        for name, value in lock.items()
        if name not in RECIPE_KEYS_IN_LOCKFILE
    }


def _describe_side(folder: Path, manifest: Manifest) -> CheckpointSide:
    weights = "averaged" if inference_weights_file(manifest) == EMA_WEIGHTS_FILE else "last"
    return CheckpointSide(str(folder), manifest.name, manifest.step, weights)
