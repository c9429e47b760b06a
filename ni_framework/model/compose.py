"""Recipe to model: builds the components that a recipe names, and locates sizes in the recipe that do not fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ni_framework.contracts import ComponentSpec, Data, Head, Input
from ni_framework.errors import FitError, NIError, OptionError, PluginError, Problem, RecipeError
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.script import Script
from ni_framework.nn.init import SkipInit, initialise_model
from ni_framework.recipe import Recipe
from ni_framework.registry import installed_catalog
from ni_framework.registry.attribution import attribute_errors
from ni_framework.registry.resolve import resolve_component
from ni_framework.utils.oom import is_out_of_memory


def build_data(recipe: Recipe) -> Data:
    """Builds the data set of a recipe. No file is opened before `open()` is called.

    Args:
        recipe: The recipe.

    Returns:
        The data set; `open()["train"]` and `open()["test"]` are its splits.

    Raises:
        RecipeError: An option does not fit.
        PluginError: The component fails.
    """
    build = ComponentBuilder(recipe)
    return build("data", recipe.data, build)


@attribute_errors()
def build_model(
    recipe: Recipe,
    device: torch.device | str = "cpu",
    on_module_initialized: Callable[[nn.Module], object] | None = None,
) -> Interpreter:
    """Builds the model of a recipe with its initial values, which depend on the seed and the parameters' names alone.

    Args:
        recipe: the recipe.
        device: where the model is placed. On the meta device it takes no memory and has no values.
        on_module_initialized: called with each module as soon as it has its values, so that a model larger than the memory
            can be sharded while it is built.

    Returns:
        The model, in training mode.

    Raises:
        RecipeError: sizes do not fit together.
        PluginError: a component fails to build.
        FitError: the model does not fit in the machine's memory.
    """
    try:
        with torch.device("meta"), SkipInit():
            data = build_data(recipe)
            model = _build_interpreter(recipe, resolve_tasks(recipe, data), data)
        if torch.device(device).type == "meta":
            return model
        initialise_model(model, recipe.seed, on_module_initialized)
        return model if on_module_initialized is not None else model.to(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise FitError(
            f"the model does not fit this machine: {reason}; use fewer functions or smaller widths"
        ) from error


def build_meta_model(recipe: Recipe) -> Interpreter:
    """Builds the model of a recipe without values. Unlike `build_model`, it accepts tasks that differ from those of the data."""
    tasks = resolve_tasks(recipe, build_data(recipe)) if recipe.model.tasks is None else recipe.model.tasks
    with torch.device("meta"), SkipInit():
        return _build_interpreter(recipe, tasks)


def _build_interpreter(recipe: Recipe, tasks: Mapping[str, int], data: Data | None = None) -> Interpreter:
    build = ComponentBuilder(recipe)
    input_module: Input = build("input", recipe.model.input, recipe.model.width)
    if data is not None and tuple(input_module.shape) != tuple(data.shape):
        message = (
            f"takes inputs of shape {list(input_module.shape)}, but the data ({recipe.data.use}) has {list(data.shape)}"
        )
        raise RecipeError([recipe.problem_at("model.input", message, "make the two shapes equal")])
    scripts = [_build_script(recipe, number, input_module, build) for number in range(len(recipe.model.program))]
    head: Head = build("head", recipe.model.head, recipe.model.width, tasks)
    return Interpreter(input_module, scripts, head, tasks)


def resolve_tasks(recipe: Recipe, data: Data) -> Mapping[str, int]:
    """Returns the model's tasks: those in the recipe, which must include those of the data, or else those of the data."""
    tasks = data.tasks if recipe.model.tasks is None else recipe.model.tasks
    for task, classes in data.tasks.items():
        if task not in tasks:
            message = f"lacks {task}, which the data ({recipe.data.use}) has"
            raise RecipeError([recipe.problem_at("model.tasks", message, f"its tasks are {', '.join(data.tasks)}")])
        if tasks[task] != classes:
            message = f"is {tasks[task]}, but the data ({recipe.data.use}) has {classes} classes"
            raise RecipeError([recipe.problem_at(f"model.tasks.{task}", message)])
    for number, script in enumerate(recipe.model.program):
        for position, grown in enumerate(script.added_functions):
            if unknown := [task for task in grown.tasks or () if task not in tasks]:
                where = f"model.scripts.{number}" if isinstance(recipe.model.scripts, tuple) else "model"
                message = f"there is no task {unknown[0]!r}"
                hint = f"the model's are {', '.join(tasks)}"
                raise RecipeError([recipe.problem_at(f"{where}.added_functions.{position}.tasks", message, hint)])
    return tasks


def _build_script(recipe: Recipe, number: int, input_module: Input, build: ComponentBuilder) -> Script:
    config = recipe.model.program[number]
    try:
        return Script(number, config, recipe.model.width, input_module.grid, build)
    except OptionError as error:
        path = f"model.scripts.{number}" if isinstance(recipe.model.scripts, tuple) else "model"
        raise RecipeError([recipe.problem_at(f"{path}.{error.option}", error.message, error.hint)]) from error


class ComponentBuilder:
    """Builds the component that a `ComponentSpec` names. Components that contain others get it as their `ComponentFactory`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, kind: str, spec: ComponentSpec, /, *sizes: Any) -> Any:
        try:
            return resolve_component(kind, spec.use)(spec.options, *sizes)
        except OptionError as error:
            path = ".".join(filter(None, (spec.path, error.option)))
            raise RecipeError([self.recipe.problem_at(path, error.message, error.hint)]) from error
        except NIError:
            raise
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            entry = installed_catalog().find(kind, spec.use)
            message = f"{kind} `{spec.use}` of {entry.source} cannot be built: {type(error).__name__}: {error}"
            problem: Problem = self.recipe.problem_at(spec.path, message, f"report it to {entry.distribution}")
            raise PluginError([problem]) from error
