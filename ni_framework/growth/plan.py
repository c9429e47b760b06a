"""Plans of growth: recipes with functions, bodies, tasks or iterations added, and with functions removed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from attrs import evolve

from ni_framework.errors import UsageError
from ni_framework.growth.transplant import FunctionRef
from ni_framework.model.freezing import with_scripts
from ni_framework.options import ComponentSpec
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import AddedFunctionsConfig, ScriptConfig

_FUNCTION_NAME = re.compile(r"f(0|[1-9][0-9]*)")


class GrowthPlan(NamedTuple):
    """The recipe of a grown model, and the origins of its functions."""

    recipe: Recipe
    # The old function of each function that existed before the growth.
    origins: Mapping[FunctionRef, FunctionRef]

    @property
    def new_functions(self) -> list[FunctionRef]:
        """The functions that the growth adds."""
        return [function for function in list_functions(self.recipe) if function not in self.origins]


def list_functions(recipe: Recipe) -> list[FunctionRef]:
    """Returns all functions of a recipe's program."""
    return [FunctionRef(n, u) for n, script in enumerate(recipe.model.program) for u in range(script.num_functions)]


def identity_plan(recipe: Recipe) -> GrowthPlan:
    """Returns a plan without changes, in which functions and tasks of earlier growths are no longer new."""
    recipe = evolve(recipe, model=evolve(recipe.model, added_tasks=()))
    program = (
        evolve(script, added_functions=tuple(evolve(grown, new=False) for grown in script.added_functions))
        for script in recipe.model.program
    )
    return GrowthPlan(with_scripts(recipe, program), {function: function for function in list_functions(recipe)})


def parse_functions(names: Sequence[str], recipe: Recipe, script: int | None) -> list[FunctionRef]:
    """Returns the functions with names such as "f3".

    Args:
        names: the names.
        recipe: the recipe of the model.
        script: the number of the script; None means the only one.

    Raises:
        UsageError: a name is invalid, or there are several scripts.
    """
    position = resolve_script(recipe, script)
    number = recipe.model.program[position].num_functions
    functions = []
    for name in names:
        match = _FUNCTION_NAME.fullmatch(name)
        if match is None or int(match[1]) >= number:
            raise UsageError(
                f"{name or 'a function without a name'}: script {position} has the functions "
                f"{_format_function_range(number)}; name some of these"
            )
        functions.append(FunctionRef(position, int(match[1])))
    return functions


def resolve_script(recipe: Recipe, script: int | None) -> int:
    """Returns the number of the script, of the only one for None. Raises `UsageError` if it is invalid or ambiguous."""
    number = len(recipe.model.program)
    if script is None and number > 1:
        raise UsageError(f"this model has {number} scripts, counted from 0; choose one with --script")
    if script is not None and not 0 <= script < number:
        raise UsageError(f"--script {script}: this model has {number} script{'s' * (number > 1)}, counted from 0")
    return script or 0


def add_functions(
    plan: GrowthPlan,
    number: int,
    scripts: Collection[int],
    body: ComponentSpec | None = None,
    tasks: Sequence[str] | None = None,
) -> GrowthPlan:
    """Returns the plan with one more generation of functions in each of these scripts, after all others.

    Args:
        plan: the plan so far.
        number: the number of functions in each script.
        scripts: the numbers of the scripts.
        body: the body of the functions; None means the script's own.
        tasks: the tasks in which the functions take part; None means all.
    """
    own = None if tasks is None else tuple(tasks)
    program = [
        evolve(
            script,
            added_functions=(*script.added_functions, AddedFunctionsConfig(functions=number, body=body, tasks=own)),
        )
        if n in scripts
        else script
        for n, script in enumerate(plan.recipe.model.program)
    ]
    return GrowthPlan(with_scripts(plan.recipe, program), plan.origins)


def remove_functions(plan: GrowthPlan, functions: Collection[FunctionRef]) -> GrowthPlan:
    """Returns the plan without these functions. Raises `UsageError` if a script would lose all functions it began with."""
    program, origins = [], {}
    for place, script in enumerate(plan.recipe.model.program):
        removed = {number for of_script, number in functions if of_script == place}
        remaining = [[number for number in numbers if number not in removed] for _, numbers in script.generation_ranges]
        kept, sizes = list(chain.from_iterable(remaining)), [len(numbers) for numbers in remaining]
        if not sizes[0]:
            raise UsageError(
                f"script {place} would lose {_format_function_range(script.functions)}, all that it began with; "
                "at least one has to stay"
            )
        for number, old_number in enumerate(kept):
            if (origin := plan.origins.get(FunctionRef(place, old_number))) is not None:
                origins[FunctionRef(place, number)] = origin
        program.append(_with_generation_sizes(script, sizes))
    return GrowthPlan(with_scripts(plan.recipe, program), origins)


def with_iterations(plan: GrowthPlan, number: int, scripts: Collection[int]) -> GrowthPlan:
    """Returns the plan with another number of iterations in each of these scripts."""
    program = [
        evolve(script, iterations=number) if n in scripts else script
        for n, script in enumerate(plan.recipe.model.program)
    ]
    return GrowthPlan(with_scripts(plan.recipe, program), plan.origins)


def with_tasks(plan: GrowthPlan, tasks: Mapping[str, int], old_tasks: Mapping[str, int]) -> GrowthPlan:
    """Returns the plan with new tasks besides the old ones. Raises `UsageError` for a task that exists already."""
    for task in tasks:
        if task in old_tasks:
            raise UsageError(f"--tasks {task}: the model has this task already")
    model = plan.recipe.model
    model = evolve(model, tasks={**old_tasks, **tasks}, added_tasks=tuple(tasks))
    return GrowthPlan(evolve(plan.recipe, model=model), plan.origins)


def _with_generation_sizes(script: ScriptConfig, sizes: Sequence[int]) -> ScriptConfig:
    grown = [
        evolve(generation, functions=size)
        for generation, size in zip(script.added_functions, sizes[1:], strict=True)
        if size
    ]
    return evolve(script, functions=sizes[0], added_functions=tuple(grown))


def _format_function_range(number: int) -> str:
    return "f0" if number == 1 else f"f0 to f{number - 1}"
