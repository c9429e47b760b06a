"""What growth has added to a model, and what of a model is trained: told by the shapes of models with and without it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from attrs import evolve
from torch import Tensor

from ni_framework.model.compose import meta_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import Script


def with_scripts(recipe: Recipe, scripts: Iterable[Script]) -> Recipe:
    """The recipe with other scripts, as many as it has; those that are all alike stay the model's own keys."""
    model = recipe.model
    program = tuple(scripts)
    if isinstance(model.scripts, tuple):
        return evolve(recipe, model=evolve(model, scripts=program))
    first = program[0]
    if all(script == first for script in program):
        own = {name: getattr(first, name) for name in ("iterations", "functions", "grown")}
        return evolve(recipe, model=evolve(model, **own))
    return evolve(recipe, model=evolve(model, scripts=program))


def before_growth(recipe: Recipe) -> Recipe:
    """The recipe of the model without what its last growth added."""
    tasks = recipe.model.tasks
    if recipe.model.new_tasks and tasks is not None:
        kept = {task: classes for task, classes in tasks.items() if task not in recipe.model.new_tasks}
        recipe = evolve(recipe, model=evolve(recipe.model, tasks=kept, new_tasks=()))
    return with_scripts(recipe, map(_without_new, recipe.model.program))


def _without_new(script: Script) -> Script:
    return evolve(script, grown=tuple(grown for grown in script.grown if not grown.new))


def held_by(recipe: Recipe) -> dict[str, int]:
    """How many leading elements of each parameter `train.learn` leaves as they are; parameters with none are left out.

    What growth adds to a tensor are its last rows, so that what was there before is a run at its start.
    """
    learn = recipe.train.learn
    if learn is None:
        return {}
    model = meta_model(recipe)
    now = dict(model.named_parameters())
    before: Mapping[str, Tensor] = dict(meta_model(before_growth(recipe)).named_parameters())
    free = _learned(model, learn)
    held = {}
    for name, parameter in now.items():
        if name in free:
            continue
        number = parameter.numel()
        if "grown" in learn:
            number = min(before[name].numel(), number) if name in before else 0
        if number:
            held[name] = number
    return held


def _learned(model: Interpreter, learn: tuple[str, ...]) -> set[str]:
    """The parameters of routing and codes, as far as these are trained."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: set[str] = set()
    for script in model.scripts:
        signature_UT, code_UC = script.embedding()
        parts = {"routing": signature_UT, "codes": code_UC}
        for part, made in parts.items():
            own = [parameter for parameter in script.embedding.parameters() if parameter.requires_grad]
            if part in learn and own and made.requires_grad:
                gradients = torch.autograd.grad(made.sum(), own, retain_graph=True, allow_unused=True)
                found |= {names[id(p)] for p, gradient in zip(own, gradients, strict=True) if gradient is not None}
        if "routing" in learn:
            for module in (script.type_inference, script.router):
                found |= {names[id(parameter)] for parameter in module.parameters()}
    return found
