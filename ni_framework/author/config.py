"""Reads and checks the author's keyword arguments, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from attrs import frozen
from torch import nn

from ni_framework.author.keys import author_option, author_section, read_author_mapping
from ni_framework.author.kwargs import ProgramKwargs
from ni_framework.errors import UsageError


@frozen(kw_only=True)
class AuthorConfig:
    """The keyword arguments of the author's `NeuralInterpreter`."""

    program_kwargs: ProgramKwargs = author_section(ProgramKwargs, required=True)
    num_classes_in_dataset: dict[str, int] | int = author_option(dict, int, minimum=1)
    use_shared_cls_tokens: bool = author_option(bool, default=False)
    use_shared_prediction_head: bool = author_option(bool, default=False)
    input_type: str = author_option(str, default="patches", supported=("patches", "entities"))
    image_size: int | None = author_option(int, NoneType, default=None, minimum=1)
    patch_size: int | None = author_option(int, NoneType, default=None, minimum=1)
    num_entities: int | None = author_option(int, NoneType, default=None, minimum=1)
    image_input_channels: int = author_option(int, default=3, minimum=1)
    pre_positional_encoding: bool = author_option(bool, default=False)
    # True raises an error in the author's model.
    layerwise_positional_encoding: bool = author_option(bool, default=True, supported=(False,))
    use_pre_input_layernorm: bool = author_option(bool, default=False, supported=(False,))
    detach_patch_embeddings: bool = author_option(bool, default=False)

    @property
    def tasks(self) -> dict[str, int]:
        """Number of classes of each task, in the author's order."""
        classes = self.num_classes_in_dataset
        return {"default": classes} if isinstance(classes, int) else dict(classes)

    @property
    def grid(self) -> int:
        """X, the number of patches along a side of an image."""
        assert self.image_size is not None  # Checked by `read_config`.
        assert self.patch_size is not None
        return self.image_size // self.patch_size


def read_config(kwargs: Mapping[str, Any]) -> AuthorConfig:
    """Reads the author's keyword arguments; raises `UsageError` with all problems, one on each line."""
    problems: list[str] = []
    config = read_author_mapping(AuthorConfig, kwargs, "", problems)
    if config is not None:
        problems = _find_contradictions(config)
    if config is None or problems:
        raise UsageError("\n".join(f"config: {problem}" for problem in problems))
    return config


def _find_contradictions(config: AuthorConfig) -> list[str]:
    """Problems between keyword arguments whose values are each valid."""
    problems = []
    script = config.program_kwargs.script_kwargs
    pod = script.function_pod_kwargs
    if config.input_type == "patches":
        needed = ("image_size", "patch_size")
    else:
        needed = ("num_entities",)
        if pod.loc_pod_kwargs.relative_positional_encoder:
            problems.append(
                "relative_positional_encoder: entities have no positions; use null, or input_type 'patches'"
            )
    missing = [name for name in needed if getattr(config, name) is None]
    problems += [f"{name}: missing from the config, which input_type {config.input_type!r} needs" for name in missing]
    if config.image_size and config.patch_size and config.image_size % config.patch_size:
        problems.append(f"patch_size: a patch of {config.patch_size} does not divide an image of {config.image_size}")
    if script.variable_features % pod.num_heads_in_loc:
        problems.append(
            f"num_heads_in_loc: {pod.num_heads_in_loc} heads do not divide the {script.variable_features} variable_features"
        )
    problems += _find_task_problems(config)
    return problems


def _find_task_problems(config: AuthorConfig) -> list[str]:
    tasks = config.tasks
    problems = [
        f"num_classes_in_dataset.{task}: expected a whole number of at least 1, not {number!r}"
        for task, number in tasks.items()
        if not isinstance(number, int) or isinstance(number, bool) or number < 1
    ]
    if not tasks:
        return ["num_classes_in_dataset: names no task"]
    if not (config.use_shared_cls_tokens and config.use_shared_prediction_head):
        # The names of tasks are then names of modules.
        unusable = [
            task
            for task in tasks
            if not isinstance(task, str) or not task or "." in task or hasattr(nn.ModuleDict, task)
        ]
        problems += [
            f"num_classes_in_dataset: torch cannot name a module {task!r}; choose another name" for task in unusable
        ]
    if not problems and config.use_shared_prediction_head and len(set(tasks.values())) > 1:
        sizes = ", ".join(f"{task} {number}" for task, number in tasks.items())
        return [f"use_shared_prediction_head: the tasks differ in their number of classes: {sizes}"]
    return problems
