"""The bodies of a script: its own, and those that growth has added with functions."""

from __future__ import annotations

from typing import NamedTuple

from attrs import evolve
from torch import nn

from ni_framework.contracts import ComponentFactory, ComponentSpec, Sizes
from ni_framework.model.gating import functions_per_body
from ni_framework.recipe.schema import ScriptConfig


class BuiltBody(NamedTuple):
    """A body and its functions."""

    body: nn.Module
    functions: list[int]
    # Whether the body's state has rows for each function, so that it cannot be given a part of its functions.
    has_rows_per_function: bool


def build_bodies(config: ScriptConfig, sizes: Sizes, build: ComponentFactory) -> list[BuiltBody]:
    """Builds a script's own body, then that of each growth that brought another.

    Args:
        config: the script's section of the recipe.
        sizes: the sizes of the script; each body gets them with the number of its own functions.
        build: builds the components that the config names.
    """
    specs = [config.body, *(grown.body for grown in config.added_functions if grown.body)]
    built = []
    for spec, functions in zip(specs, functions_per_body(config), strict=True):
        body = _build_body(spec, len(functions), sizes, build)
        has_rows_per_function = False
        if config.added_functions:
            # Sizes alone do not show it: a weight may have as many rows as there are functions by chance. It is found out
            # while the model is built, because later its tensors may be sharded.
            wider_body = _build_body(spec, len(functions) + 1, sizes, build)
            has_rows_per_function = _body_state_shapes(body) != _body_state_shapes(wider_body)
        built.append(BuiltBody(body, functions, has_rows_per_function))
    return built


def _build_body(spec: ComponentSpec, num_functions: int, sizes: Sizes, build: ComponentFactory) -> nn.Module:
    return build("body", spec, evolve(sizes, functions=num_functions), build)


def _body_state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}
