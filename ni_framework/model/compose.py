"""Recipe to model: builds the components that a recipe names, and says where in the recipe sizes do not fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ni_framework.contracts import Choice, Data, Head, Input
from ni_framework.errors import FitError, NIError, OptionError, PluginError, Problem, RecipeError
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.script import Script
from ni_framework.nn.init import WithoutValues, initialise
from ni_framework.recipe import Recipe
from ni_framework.registry import installed
from ni_framework.registry.attribution import blamed
from ni_framework.registry.resolve import component
from ni_framework.utils.oom import too_large


def build_data(recipe: Recipe) -> Data:
    """The recipe's data set, with no file opened yet."""
    build = Builder(recipe)
    return build("data", recipe.data, build)


@blamed()
def build_model(
    recipe: Recipe, device: torch.device | str = "cpu", settle: Callable[[nn.Module], object] | None = None
) -> Interpreter:
    """The model of a recipe with its initial values, which depend on the recipe's seed and the parameters' names alone.

    On the meta device it takes no memory and has no values. `settle` is given each module as soon as it has its values, so that
    a model larger than the memory can be spread. Raises `RecipeError` where sizes do not fit together,
    `PluginError` where a component fails to build, and `FitError` where the model does not fit the machine.
    """
    try:
        with torch.device("meta"), WithoutValues():
            data = build_data(recipe)
            model = _compose(recipe, tasks_of(recipe, data), data)
        if torch.device(device).type == "meta":
            return model
        initialise(model, recipe.seed, settle)
        return model if settle is not None else model.to(device)
    except (RuntimeError, MemoryError) as error:
        if not too_large(error):
            raise
        reason = str(error).partition("\n")[0]
        raise FitError(
            f"the model does not fit this machine: {reason}; use fewer functions or smaller widths"
        ) from error


def meta_model(recipe: Recipe) -> Interpreter:
    """The model of a recipe without values; unlike `build_model`, of the recipe's own tasks whatever those of the data are."""
    tasks = tasks_of(recipe, build_data(recipe)) if recipe.model.tasks is None else recipe.model.tasks
    with torch.device("meta"), WithoutValues():
        return _compose(recipe, tasks)


def _compose(recipe: Recipe, tasks: Mapping[str, int], data: Data | None = None) -> Interpreter:
    build = Builder(recipe)
    input: Input = build("input", recipe.model.input, recipe.model.width)
    if data is not None and tuple(input.shape) != tuple(data.shape):
        message = f"takes inputs of shape {list(input.shape)}, but the data ({recipe.data.use}) has {list(data.shape)}"
        raise RecipeError([recipe.problem("model.input", message, "make the two shapes equal")])
    scripts = [_script(recipe, number, input, build) for number in range(len(recipe.model.program))]
    head: Head = build("head", recipe.model.head, recipe.model.width, tasks)
    return Interpreter(input, scripts, head, tasks)


def tasks_of(recipe: Recipe, data: Data) -> Mapping[str, int]:
    """The model's tasks: the recipe's own, among which those of the data must be, or these."""
    tasks = data.tasks if recipe.model.tasks is None else recipe.model.tasks
    for task, classes in data.tasks.items():
        if task not in tasks:
            message = f"lacks {task}, which the data ({recipe.data.use}) has"
            raise RecipeError([recipe.problem("model.tasks", message, f"its tasks are {', '.join(data.tasks)}")])
        if tasks[task] != classes:
            message = f"is {tasks[task]}, but the data ({recipe.data.use}) has {classes} classes"
            raise RecipeError([recipe.problem(f"model.tasks.{task}", message)])
    for number, script in enumerate(recipe.model.program):
        for place, grown in enumerate(script.grown):
            if unknown := [task for task in grown.tasks or () if task not in tasks]:
                where = f"model.scripts.{number}" if isinstance(recipe.model.scripts, tuple) else "model"
                message = f"there is no task {unknown[0]!r}"
                hint = f"the model's are {', '.join(tasks)}"
                raise RecipeError([recipe.problem(f"{where}.grown.{place}.tasks", message, hint)])
    return tasks


def _script(recipe: Recipe, number: int, input: Input, build: Builder) -> Script:
    script = recipe.model.program[number]
    try:
        return Script(number, script, recipe.model.width, input.grid, build)
    except OptionError as error:
        path = f"model.scripts.{number}" if isinstance(recipe.model.scripts, tuple) else "model"
        raise RecipeError([recipe.problem(f"{path}.{error.option}", error.message, error.hint)]) from error


class Builder:
    """Builds the component that a `Choice` names; `contracts.Build` for components that hold others."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, kind: str, choice: Choice, /, *sizes: Any) -> Any:
        try:
            return component(kind, choice.use)(choice.options, *sizes)
        except OptionError as error:
            path = ".".join(filter(None, (choice.path, error.option)))
            raise RecipeError([self.recipe.problem(path, error.message, error.hint)]) from error
        except NIError:
            raise
        except (Exception, SystemExit) as error:
            if too_large(error):
                raise
            entry = installed().find(kind, choice.use)
            message = f"{kind} `{choice.use}` of {entry.source} cannot be built: {type(error).__name__}: {error}"
            problem: Problem = self.recipe.problem(choice.path, message, f"report it to {entry.distribution}")
            raise PluginError([problem]) from error
