"""Weights of one model as those of another that has more functions or fewer: pure functions of named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from attrs import evolve, frozen
from torch import Tensor

from ni_framework.errors import PluginError, Problem
from ni_framework.model.compose import meta_model
from ni_framework.model.freezing import with_scripts
from ni_framework.model.gating import functions_of_bodies
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import Script

Rows = Mapping[str, list["Function"]]
"""Of each tensor that holds something for each function: whose its rows are, in their order."""


class Function(NamedTuple):
    """A function of a program."""

    script: int
    number: int


@frozen
class Outline:
    """What of a model belongs to which function."""

    rows: Rows
    own_bodies: Mapping[Function, str]  # where the body is of those that have not their script's: "scripts.0.bodies.1"


def outline_of(recipe: Recipe) -> Outline:
    """The outline of a recipe's model, told by how its tensors change with one function more in each generation.

    Raises `PluginError` where a component holds functions elsewhere than along a tensor's first dimension.
    """
    program = recipe.model.program
    shapes = _shapes(recipe)
    rows: dict[str, list[Function]] = {}
    for generation in range(max(len(script.generations) for script in program)):
        widened = with_scripts(recipe, (_with_one_more(script, generation) for script in program))
        for name, shape in _shapes(widened).items():
            if shape == shapes[name]:
                continue
            if shape[1:] != shapes[name][1:] or shape[0] != shapes[name][0] + 1:
                raise _cannot_grow(name, shapes[name], shape)
            place = int(name.split(".")[1])  # "scripts.0.embedding.code"
            _, numbers = program[place].members[generation]
            rows.setdefault(name, []).extend(Function(place, number) for number in numbers)
    return Outline(rows, _own_bodies(recipe))


def transplanted(
    old: Mapping[str, Tensor],
    before: Outline,
    fresh: Mapping[str, Tensor],
    now: Outline,
    origins: Mapping[Function, Function],
) -> dict[str, Tensor]:
    """The tensors of the new model: rows of functions as `origins` says (absent: fresh), others as they were, new ones fresh.

    Raises `PluginError` for a tensor that has changed in any other way.
    """
    state = {}
    for name, value in fresh.items():
        source = name_before(name, before, now, origins)
        if source is None or source not in old:
            state[name] = value
        elif name in now.rows:
            place = {function: row for row, function in enumerate(before.rows[source])}
            rows = [place.get(origins[function]) if function in origins else None for function in now.rows[name]]
            kept = [old[source][row] if row is not None else value[n] for n, row in enumerate(rows)]
            state[name] = torch.stack(kept) if kept else value
        elif old[source].shape == value.shape:
            state[name] = old[source]
        elif old[source].shape[1:] == value.shape[1:] and len(old[source]) < len(value):
            state[name] = torch.cat([old[source], value[len(old[source]) :]])
        else:
            raise _cannot_grow(name, old[source].shape, value.shape)
    return state


def name_before(name: str, before: Outline, now: Outline, origins: Mapping[Function, Function]) -> str | None:
    """What a tensor of the new model was called; None for one of a body that came with new functions."""
    for function, place in now.own_bodies.items():
        if name.startswith(f"{place}."):
            was = before.own_bodies.get(origins[function]) if function in origins else None
            return None if was is None else was + name.removeprefix(place)
    return name


def _own_bodies(recipe: Recipe) -> dict[Function, str]:
    return {
        Function(number, function): f"scripts.{number}.bodies.{place}"
        for number, script in enumerate(recipe.model.program)
        for place, functions in enumerate(functions_of_bodies(script)[1:])
        for function in functions
    }


def _shapes(recipe: Recipe) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in meta_model(recipe).state_dict().items()}


def _cannot_grow(name: str, before: Sequence[int], now: Sequence[int]) -> PluginError:
    message = f"{name} goes from shape {list(before)} to {list(now)} as functions or tasks are added"
    return PluginError([Problem(message, hint="only what has them along its first dimension, at its end, can grow")])


def _with_one_more(script: Script, generation: int) -> Script:
    if generation == 0:
        return evolve(script, functions=script.functions + 1)
    if generation > len(script.grown):
        return script
    grown = list(script.grown)
    grown[generation - 1] = evolve(grown[generation - 1], functions=grown[generation - 1].functions + 1)
    return evolve(script, grown=tuple(grown))
