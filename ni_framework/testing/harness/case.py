"""A component under test: its class, its options, and the small sizes at which it is built."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
import torch
from attrs import frozen

from ni_framework.contracts import BASES, Choice, Sizes
from ni_framework.errors import OptionError, RecipeError
from ni_framework.nn.init import WithoutValues, initialise
from ni_framework.recipe import dump_values, load_options
from ni_framework.recipe.validate.fields import examples_of
from ni_framework.registry.resolve import component, config_of, contract_fault
from ni_framework.testing.failures import Excused, Failure

# All differ, so that no mistake in a transpose passes unseen; the input's elements lie on a grid, and one CLS is before
# them.
SIZES = Sizes(width=12, functions=11, code=9, type=8, grid=(3, 2))
WIDTHS = 24, 48, 96  # for a component that refuses the usual one
BATCH = 3
TASKS: Mapping[str, int] = {"shape": 13, "colour": 14}
BIAS, OUT = True, 10  # of a linear map


@frozen(eq=False)  # cases are compared by identity, so that results are cached for each
class Case:
    """A component class with options and sizes. Raises `Failure` for a class that is no component, or for its options."""

    cls: Any
    options: Mapping[str, Any] = {}
    given: Sizes | None = None

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes that were given; without, the usual ones, or others if the component says that those do not fit."""
        if self.given is not None or self.kind == "data":
            return self.given or SIZES
        refused = None
        for grid in (SIZES.grid, (4, 4)):
            for width in (SIZES.width, *WIDTHS):
                sizes = attrs.evolve(SIZES, width=width, grid=grid)
                try:
                    self.on_meta(sizes)
                except OptionError as error:
                    refused = refused or error
                except Exception:
                    return SIZES  # the checks say what is wrong with it
                else:
                    return sizes
        raise Failure(
            f"it refuses the sizes that are tried ({refused}); give some that fit: "
            f"conformance({self.cls.__name__}, Sizes(width=..., functions=..., code=..., type=..., grid=...))"
        )

    @cached_property
    def kind(self) -> str:
        """The kind of component that the class is."""
        kinds = [kind for kind, base in BASES.items() if isinstance(self.cls, type) and issubclass(self.cls, base)]
        if not kinds:
            bases = ", ".join(base.__name__ for base in BASES.values())
            raise Failure(f"{self.cls!r} is no component; make it a subclass of one of contracts.{{{bases}}}")
        if fault := contract_fault(kinds[0], self.cls):
            raise Failure(f"{self.cls.__name__} {fault}")
        return kinds[0]

    @cached_property
    def config(self) -> Any:
        """The options as the component gets them: those given, examples of those that have no default, and defaults."""
        assert self.kind
        given = examples_of(self.cls.Config) | dict(self.options)
        lacking = [name for name, value in given.items() if value is None]
        if lacking:
            raise Failure(
                f"the option `{lacking[0]}` has neither a default nor an example; declare it with example=..."
            )
        try:
            return load_options(self.cls.Config, dump_values(given), resolve=config_of)
        except RecipeError as error:
            raise Failure(f"its options are refused: {error.problems[0].message}") from error

    def made(self, sizes: Sizes | None = None) -> Any:
        """A new component, as the framework makes one; on whatever device is the default one."""
        sizes = sizes or self.sizes
        match self.kind:
            case "data":
                return self.cls(self.config, build)
            case "linear":
                return self.cls(self.config, sizes.width, OUT, sizes.code, BIAS)
            case "input":
                return self.cls(self.config, sizes.width)
            case "head":
                return self.cls(self.config, sizes.width, TASKS)
            case _:
                return self.cls(self.config, sizes, build)

    def on_meta(self, sizes: Sizes | None = None) -> Any:
        """A new component on the meta device, as `build_model` makes one before it gets its values."""
        with torch.device("meta"), WithoutValues():
            return self.made(sizes)

    def built(self, sizes: Sizes | None = None, seed: int = 0) -> Any:
        """A component in float64 with all its parameters moved from their start, so that what begins at zero counts too."""
        module = self.on_meta(sizes)
        initialise(module, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return module.double().eval()

    def without_places(self) -> Sizes:
        """The sizes with elements that lie on no grid; `Excused` for a component that needs one."""
        sizes = attrs.evolve(self.sizes, grid=None)
        try:
            self.on_meta(sizes)
        except OptionError as error:
            raise Excused(f"it needs the places of elements: {error.message}") from error
        return sizes


def build(kind: str, choice: Choice, /, *sizes: Any) -> Any:
    """`contracts.Build` for the components inside of one under test."""
    return component(kind, choice.use)(choice.options, *sizes)
