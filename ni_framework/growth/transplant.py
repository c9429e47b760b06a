"""Weights of one model for another with more or fewer functions: pure functions of named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from attrs import evolve, frozen
from torch import Tensor

from ni_framework.errors import PluginError, Problem
from ni_framework.model.compose import build_meta_model
from ni_framework.model.freezing import with_scripts
from ni_framework.model.gating import functions_per_body
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import ScriptConfig

RowOwners = Mapping[str, list["FunctionRef"]]
"""For each tensor with rows for functions: the function of each row."""


class FunctionRef(NamedTuple):
    """A function of a program: the number of its script, and its number in the script."""

    script: int
    number: int


@frozen
class FunctionRows:
    """Which rows of a model's tensors, and which bodies, belong to which function."""

    rows: RowOwners
    # The path of the body, as "scripts.0.bodies.1", of each function that does not have its script's own body.
    own_body_paths: Mapping[FunctionRef, str]


def infer_function_rows(recipe: Recipe) -> FunctionRows:
    """Returns the rows of functions of a recipe's model, inferred from how its tensors change with one function more.

    Raises `PluginError` if a component stores functions elsewhere than along a tensor's first dimension.
    """
    program = recipe.model.program
    shapes = _state_shapes(recipe)
    rows: dict[str, list[FunctionRef]] = {}
    for generation in range(max(len(script.generations) for script in program)):
        widened = with_scripts(recipe, (_with_extra_function(script, generation) for script in program))
        for name, shape in _state_shapes(widened).items():
            if shape == shapes[name]:
                continue
            if shape[1:] != shapes[name][1:] or shape[0] != shapes[name][0] + 1:
                raise _not_growable_error(name, shapes[name], shape)
            script_number = int(name.split(".")[1])  # "scripts.0.embedding.code"
            _, numbers = program[script_number].generation_ranges[generation]
            rows.setdefault(name, []).extend(FunctionRef(script_number, number) for number in numbers)
    return FunctionRows(rows, _own_body_paths(recipe))


def transfer_weights(
    old: Mapping[str, Tensor],
    old_rows: FunctionRows,
    initial: Mapping[str, Tensor],
    new_rows: FunctionRows,
    origins: Mapping[FunctionRef, FunctionRef],
) -> dict[str, Tensor]:
    """Returns the tensors of the new model: old rows of functions and old tensors where they exist, else initial values.

    Args:
        old: the tensors of the old model.
        old_rows: the rows of its functions.
        initial: the initial values of the new model.
        new_rows: the rows of its functions.
        origins: the old function of each function of the new model; functions without one get initial values.

    Raises:
        PluginError: a tensor has changed in any other way than by rows at its end.
    """
    state = {}
    for name, value in initial.items():
        source = find_old_name(name, old_rows, new_rows, origins)
        if source is None or source not in old:
            state[name] = value
        elif name in new_rows.rows:
            row_of = {function: row for row, function in enumerate(old_rows.rows[source])}
            rows = [row_of.get(origins[function]) if function in origins else None for function in new_rows.rows[name]]
            kept = [old[source][row] if row is not None else value[n] for n, row in enumerate(rows)]
            state[name] = torch.stack(kept) if kept else value
        elif old[source].shape == value.shape:
            state[name] = old[source]
        elif old[source].shape[1:] == value.shape[1:] and len(old[source]) < len(value):
            state[name] = torch.cat([old[source], value[len(old[source]) :]])
        else:
            raise _not_growable_error(name, old[source].shape, value.shape)
    return state


def find_old_name(
    name: str, old_rows: FunctionRows, new_rows: FunctionRows, origins: Mapping[FunctionRef, FunctionRef]
) -> str | None:
    """Returns the old name of a tensor of the new model; None for a tensor of a body that new functions brought.

    Args:
        name: the name in the new model.
        old_rows: the rows of functions of the old model.
        new_rows: the rows of functions of the new model.
        origins: the old function of each function of the new model.
    """
    for function, path in new_rows.own_body_paths.items():
        if name.startswith(f"{path}."):
            old_path = old_rows.own_body_paths.get(origins[function]) if function in origins else None
            return None if old_path is None else old_path + name.removeprefix(path)
    return name


def _own_body_paths(recipe: Recipe) -> dict[FunctionRef, str]:
    return {
        FunctionRef(number, function): f"scripts.{number}.bodies.{place}"
        for number, script in enumerate(recipe.model.program)
        for place, functions in enumerate(functions_per_body(script)[1:])
        for function in functions
    }


def _state_shapes(recipe: Recipe) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in build_meta_model(recipe).state_dict().items()}


def _not_growable_error(name: str, old_shape: Sequence[int], new_shape: Sequence[int]) -> PluginError:
    message = f"{name} goes from shape {list(old_shape)} to {list(new_shape)} as functions or tasks are added"
    return PluginError([Problem(message, hint="a tensor can grow only by rows at the end of its first dimension")])


def _with_extra_function(script: ScriptConfig, generation: int) -> ScriptConfig:
    if generation == 0:
        return evolve(script, functions=script.functions + 1)
    if generation > len(script.added_functions):
        return script
    grown = list(script.added_functions)
    grown[generation - 1] = evolve(grown[generation - 1], functions=grown[generation - 1].functions + 1)
    return evolve(script, added_functions=tuple(grown))
