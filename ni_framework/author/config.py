"""The author's keyword arguments: as one frozen value, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from attrs import frozen
from torch import nn

from ni_framework.author.keys import key, read, section
from ni_framework.author.kwargs import Program
from ni_framework.errors import UsageError


@frozen(kw_only=True)
class AuthorConfig:
    """The keyword arguments of the author's `NeuralInterpreter`."""

    program_kwargs: Program = section(Program, needed=True)
    num_classes_in_dataset: dict[str, int] | int = key(dict, int, least=1)
    use_shared_cls_tokens: bool = key(bool, default=False)
    use_shared_prediction_head: bool = key(bool, default=False)
    input_type: str = key(str, default="patches", supported=("patches", "entities"))
    image_size: int | None = key(int, NoneType, default=None, least=1)
    patch_size: int | None = key(int, NoneType, default=None, least=1)
    num_entities: int | None = key(int, NoneType, default=None, least=1)
    image_input_channels: int = key(int, default=3, least=1)
    pre_positional_encoding: bool = key(bool, default=False)
    layerwise_positional_encoding: bool = key(bool, default=True, supported=(False,))  # raises in the author's model
    use_pre_input_layernorm: bool = key(bool, default=False, supported=(False,))
    detach_patch_embeddings: bool = key(bool, default=False)

    @property
    def tasks(self) -> dict[str, int]:
        """Tasks and their numbers of classes, in the author's order."""
        given = self.num_classes_in_dataset
        return {"default": given} if isinstance(given, int) else dict(given)

    @property
    def grid(self) -> int:
        """X, the patches a side of an image."""
        assert self.image_size is not None  # checked by read_config
        assert self.patch_size is not None
        return self.image_size // self.patch_size


def read_config(given: Mapping[str, Any]) -> AuthorConfig:
    """The author's keyword arguments, checked; raises `UsageError` with all that is wrong, a line each."""
    problems: list[str] = []
    config = read(AuthorConfig, given, "", problems)
    if config is not None:
        problems = _contradictions(config)
    if config is None or problems:
        raise UsageError("\n".join(f"config: {problem}" for problem in problems))
    return config


def _contradictions(config: AuthorConfig) -> list[str]:
    """What is wrong with keyword arguments that are each right by itself."""
    problems = []
    script = config.program_kwargs.script_kwargs
    pod = script.function_pod_kwargs
    if config.input_type == "patches":
        needed = ("image_size", "patch_size")
    else:
        needed = ("num_entities",)
        if pod.loc_pod_kwargs.relative_positional_encoder:
            problems.append("relative_positional_encoder: entities have no places; use null, or input_type 'patches'")
    missing = [name for name in needed if getattr(config, name) is None]
    problems += [f"{name}: missing from the config, which input_type {config.input_type!r} needs" for name in missing]
    if config.image_size and config.patch_size and config.image_size % config.patch_size:
        problems.append(f"patch_size: a patch of {config.patch_size} does not divide an image of {config.image_size}")
    if script.variable_features % pod.num_heads_in_loc:
        problems.append(
            f"num_heads_in_loc: {pod.num_heads_in_loc} heads cannot share the {script.variable_features} variable_features"
        )
    problems += _wrong_tasks(config)
    return problems


def _wrong_tasks(config: AuthorConfig) -> list[str]:
    tasks = config.tasks
    wrong = [
        f"num_classes_in_dataset.{task}: expected a whole number of at least 1, not {number!r}"
        for task, number in tasks.items()
        if not isinstance(number, int) or isinstance(number, bool) or number < 1
    ]
    if not tasks:
        return ["num_classes_in_dataset: names no task"]
    if not (config.use_shared_cls_tokens and config.use_shared_prediction_head):
        # Tasks name modules then.
        taken = [
            task
            for task in tasks
            if not isinstance(task, str) or not task or "." in task or hasattr(nn.ModuleDict, task)
        ]
        wrong += [f"num_classes_in_dataset: torch cannot name a module {task!r}; choose another name" for task in taken]
    if not wrong and config.use_shared_prediction_head and len(set(tasks.values())) > 1:
        sizes = ", ".join(f"{task} {number}" for task, number in tasks.items())
        return [f"use_shared_prediction_head: the tasks differ in their number of classes: {sizes}"]
    return wrong
