"""A few components for the tests of recipes, and a registry of their config classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ni_framework.errors import OptionError, PluginError, Problem, RecipeError
from ni_framework.options import ComponentSpec, component_option, config, option


@config
class Empty:
    """No options."""


@config
class Mlp:
    """Type inference with a depth."""

    depth: int = option(default=2, help="layers", ge=1)


@config
class Kernel:
    """A router with a bounded number."""

    truncation: float = option(default=1.42, help="largest distance", gt=0)


@config
class TopK:
    """A router with a required option."""

    k: int = option(help="functions per element", ge=1)
    hard: bool = option(default=False, help="whether the gradient goes straight through")


@config
class Lines:
    """A body with a nested component, and with options that depend on each other."""

    lines: int = option(default=1, help="lines of code", ge=1)
    heads: int = option(default=4, help="attention heads", ge=1)
    key: int = option(default=16, help="width of all keys together", ge=1)
    linear: ComponentSpec = component_option("linear", default="modlin", help="the modulated map")

    def __attrs_post_init__(self) -> None:
        """The heads must divide the width of the keys."""
        if self.key % self.heads:
            raise OptionError("heads", f"must divide the width of the keys, {self.key}", "try 4")


@config
class Faulty:
    """A component whose code fails."""

    size: int = option(default=1, help="any")

    def __attrs_post_init__(self) -> None:
        """Raises an error that is not one of the framework's."""
        raise KeyError("oops")


@config
class Patches:
    """An input with a list of fixed length."""

    image: tuple[int, int, int] = option(help="channels, height, width", ge=1)
    patch: int = option(default=2, help="side of a patch", ge=1)


@config
class Everything:
    """One option of every type."""

    flag: bool = option(default=True, help="a bool")
    word: str = option(default="plain", help="a text")
    mode: Literal["fast", "slow"] = option(default="fast", help="one of two")
    maybe: int | None = option(default=None, help="a number or nothing")
    either: float | int = option(default=1, help="either kind of number")
    text_or_number: int | str = option(default="auto", help="a number or a word")
    numbers: tuple[float, ...] = option(default=(), help="any number of numbers", le=100)
    pairs: tuple[tuple[int, str], ...] = option(default=(), help="pairs")
    table: Mapping[str, float] = option(default={}, help="named numbers", ge=0)
    nested: Mlp = option(default=Mlp(), help="a config of its own")
    parts: tuple[ComponentSpec, ...] = component_option("linear", help="several components")


COMPONENT_CONFIGS: dict[str, dict[str, type]] = {
    "embedding": {"separate": Empty},
    "type_inference": {"mlp": Mlp},
    "router": {"kernel": Kernel, "top_k": TopK},
    "body": {"lines_of_code": Lines, "faulty": Faulty},
    "linear": {"modlin": Empty, "lowrank": Mlp},
    "input": {"patches": Patches, "everything": Everything},
    "head": {"classify": Empty},
    "data": {"digits": Empty, "folder": Everything},
}
# The name of a component of any kind whose plugin cannot be imported.
BROKEN_NAME = "snapped"


def resolve_component(kind: str, name: str) -> type:
    """The config class of a component of these tests, with the errors of the registry's function."""
    if name == BROKEN_NAME:
        raise PluginError([Problem(f"{kind} `{name}` of broken-plugin 0.1 cannot be imported", None, "reinstall it")])
    if name not in COMPONENT_CONFIGS[kind]:
        known = ", ".join(f"`{known}`" for known in sorted(COMPONENT_CONFIGS[kind]))
        raise RecipeError([Problem(f"there is no {kind} `{name}`", None, f"installed: {known}")])
    return COMPONENT_CONFIGS[kind][name]


VALID_RECIPE = """\
ni: 1
seed: 3
model:
  width: 64
  input: {use: patches, image: [1, 8, 8], patch: 2}
  iterations: 4
  functions: 5
  code: 64
  type: 16
  router: {use: kernel, truncation: 1.2}
  body: {lines: 1, linear: modlin}
data: digits
train:
  steps: 2000
  batch: 64
  optimizer: {lr: 3.0e-3}
"""
