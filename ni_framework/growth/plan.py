"""What a model becomes: recipes with functions, bodies, tasks or iterations added and functions removed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from attrs import evolve

from ni_framework.errors import UsageError
from ni_framework.growth.transplant import Function
from ni_framework.model.freezing import with_scripts
from ni_framework.options import Choice
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import Grown, Script

_FUNCTION = re.compile(r"f(0|[1-9][0-9]*)")


class Growth(NamedTuple):
    """A recipe that growth has changed, and which function each of its old ones was."""

    recipe: Recipe
    origins: Mapping[Function, Function]

    @property
    def added(self) -> list[Function]:
        """The functions that were not there before."""
        return [function for function in functions_of(self.recipe) if function not in self.origins]


def functions_of(recipe: Recipe) -> list[Function]:
    """All functions of a recipe's program."""
    return [Function(n, u) for n, script in enumerate(recipe.model.program) for u in range(script.num_functions)]


def begun(recipe: Recipe) -> Growth:
    """No growth yet: what earlier ones added is no longer new."""
    recipe = evolve(recipe, model=evolve(recipe.model, new_tasks=()))
    older = (evolve(of, grown=tuple(evolve(grown, new=False) for grown in of.grown)) for of in recipe.model.program)
    return Growth(with_scripts(recipe, older), {function: function for function in functions_of(recipe)})


def functions_named(names: Sequence[str], recipe: Recipe, script: int | None) -> list[Function]:
    """The functions that "f3" and its like name, of a script or of the only one there is; raises `UsageError` for others."""
    place = only_script(recipe, script)
    number = recipe.model.program[place].num_functions
    found = []
    for name in names:
        match = _FUNCTION.fullmatch(name)
        if match is None or int(match[1]) >= number:
            raise UsageError(
                f"{name or 'a function without a name'}: script {place} has the functions {_listed(number)}; name some of these"
            )
        found.append(Function(place, int(match[1])))
    return found


def only_script(recipe: Recipe, script: int | None) -> int:
    """The script that is meant, or the only one there is; raises `UsageError` where that does not say which."""
    number = len(recipe.model.program)
    if script is None and number > 1:
        raise UsageError(f"this model has {number} scripts, from 0; say which with --script")
    if script is not None and not 0 <= script < number:
        raise UsageError(f"--script {script}: this model has {number} script{'s' * (number > 1)}, counted from 0")
    return script or 0


def add(
    growth: Growth,
    number: int,
    scripts: Collection[int],
    body: Choice | None = None,
    tasks: Sequence[str] | None = None,
) -> Growth:
    """With a generation more in each of these scripts; its functions come last."""
    own = None if tasks is None else tuple(tasks)
    program = [
        evolve(script, grown=(*script.grown, Grown(functions=number, body=body, tasks=own))) if n in scripts else script
        for n, script in enumerate(growth.recipe.model.program)
    ]
    return Growth(with_scripts(growth.recipe, program), growth.origins)


def remove(growth: Growth, functions: Collection[Function]) -> Growth:
    """Without these functions; those after them move up. Raises `UsageError` where a script would lose all it began with."""
    program, origins = [], {}
    for place, script in enumerate(growth.recipe.model.program):
        gone = {number for of_script, number in functions if of_script == place}
        here = [[number for number in numbers if number not in gone] for _, numbers in script.members]
        kept, left = list(chain.from_iterable(here)), [len(numbers) for numbers in here]
        if not left[0]:
            raise UsageError(
                f"script {place} would lose {_listed(script.functions)}, all that it began with; at least one has to stay"
            )
        for number, was in enumerate(kept):
            if (origin := growth.origins.get(Function(place, was))) is not None:
                origins[Function(place, number)] = origin
        program.append(_with_sizes(script, left))
    return Growth(with_scripts(growth.recipe, program), origins)


def with_iterations(growth: Growth, number: int, scripts: Collection[int]) -> Growth:
    """With another number of iterations in each of these scripts."""
    program = [
        evolve(script, iterations=number) if n in scripts else script
        for n, script in enumerate(growth.recipe.model.program)
    ]
    return Growth(with_scripts(growth.recipe, program), growth.origins)


def with_tasks(growth: Growth, tasks: Mapping[str, int], before: Mapping[str, int]) -> Growth:
    """With new tasks beside those there are; raises `UsageError` for one that is there already."""
    for task in tasks:
        if task in before:
            raise UsageError(f"--tasks {task}: the model has this task already")
    model = growth.recipe.model
    model = evolve(model, tasks={**before, **tasks}, new_tasks=tuple(tasks))
    return Growth(evolve(growth.recipe, model=model), growth.origins)


def _with_sizes(script: Script, sizes: Sequence[int]) -> Script:
    grown = [evolve(of, functions=size) for of, size in zip(script.grown, sizes[1:], strict=True) if size]
    return evolve(script, functions=sizes[0], grown=tuple(grown))


def _listed(number: int) -> str:
    return "f0" if number == 1 else f"f0 to f{number - 1}"
