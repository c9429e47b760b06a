"""Which parameters growth has added and which are frozen, inferred from the shapes of models with and without the growth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from attrs import evolve
from torch import Tensor

from ni_framework.model.compose import build_meta_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import ScriptConfig


def with_scripts(recipe: Recipe, scripts: Iterable[ScriptConfig]) -> Recipe:
    """Returns the recipe with other scripts, as many as it has. If all are equal, they stay keys of the model section."""
    model = recipe.model
    program = tuple(scripts)
    if isinstance(model.scripts, tuple):
        return evolve(recipe, model=evolve(model, scripts=program))
    first = program[0]
    if all(script == first for script in program):
        shared = {name: getattr(first, name) for name in ("iterations", "functions", "added_functions")}
        return evolve(recipe, model=evolve(model, **shared))
    return evolve(recipe, model=evolve(model, scripts=program))


def before_last_growth(recipe: Recipe) -> Recipe:
    """Returns the recipe of the model before its last growth."""
    tasks = recipe.model.tasks
    if recipe.model.added_tasks and tasks is not None:
        old_tasks = {task: classes for task, classes in tasks.items() if task not in recipe.model.added_tasks}
        recipe = evolve(recipe, model=evolve(recipe.model, tasks=old_tasks, added_tasks=()))
    return with_scripts(recipe, map(_without_new_functions, recipe.model.program))


def _without_new_functions(script: ScriptConfig) -> ScriptConfig:
    return evolve(script, added_functions=tuple(grown for grown in script.added_functions if not grown.new))


def frozen_prefix_sizes(recipe: Recipe) -> dict[str, int]:
    """Returns how many leading elements of each parameter `train.trainable` freezes; parameters without any are omitted.

    Growth appends rows to a tensor, so that the old values are a range at its start.
    """
    trainable = recipe.train.trainable
    if trainable is None:
        return {}
    model = build_meta_model(recipe)
    parameters = dict(model.named_parameters())
    old_parameters: Mapping[str, Tensor] = dict(build_meta_model(before_last_growth(recipe)).named_parameters())
    trainable_names = _trained_routing_parameters(model, trainable)
    frozen_sizes = {}
    for name, parameter in parameters.items():
        if name in trainable_names:
            continue
        frozen_size = parameter.numel()
        if "grown" in trainable:
            frozen_size = min(old_parameters[name].numel(), frozen_size) if name in old_parameters else 0
        if frozen_size:
            frozen_sizes[name] = frozen_size
    return frozen_sizes


def _trained_routing_parameters(model: Interpreter, trainable: tuple[str, ...]) -> set[str]:
    """Returns the parameters of routing and of codes that `train.trainable` trains."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained_names: set[str] = set()
    for script in model.scripts:
        signature_UT, code_UC = script.embedding()
        vectors = {"routing": signature_UT, "codes": code_UC}
        for kind, vector in vectors.items():
            own = [parameter for parameter in script.embedding.parameters() if parameter.requires_grad]
            if kind in trainable and own and vector.requires_grad:
                gradients = torch.autograd.grad(vector.sum(), own, retain_graph=True, allow_unused=True)
                trained_names |= {
                    names[id(p)] for p, gradient in zip(own, gradients, strict=True) if gradient is not None
                }
        if "routing" in trainable:
            for module in (script.type_inference, script.router):
                trained_names |= {names[id(parameter)] for parameter in module.parameters()}
    return trained_names
