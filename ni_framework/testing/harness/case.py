"""A component under test: its class, its options, and the small sizes that it is built for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
import torch
from attrs import frozen

from ni_framework.contracts import COMPONENT_BASES, ComponentSpec, Sizes
from ni_framework.errors import OptionError, RecipeError
from ni_framework.nn.init import SkipInit, initialise_model
from ni_framework.recipe import dump_values, load_options
from ni_framework.recipe.validate.fields import examples_of
from ni_framework.registry.resolve import find_contract_violation, resolve_component, resolve_config
from ni_framework.testing.failures import Failure, NotApplicable

# All sizes differ, so that a wrong transpose is detected. The elements of the input are on a grid, after one CLS element.
DEFAULT_SIZES = Sizes(width=12, functions=11, code=9, type=8, grid=(3, 2))
# These widths are used for a component that rejects the default one.
FALLBACK_WIDTHS = 24, 48, 96
CASE_BATCH_SIZE = 3
CASE_TASKS: Mapping[str, int] = {"shape": 13, "colour": 14}
# How a linear map is built.
LINEAR_BIAS, LINEAR_OUT_FEATURES = True, 10


# Cases are compared by identity, so that results can be cached for each one.
@frozen(eq=False)
class Case:
    """A component class with options and sizes. Properties raise `Failure` for an invalid class or invalid options."""

    cls: Any
    options: Mapping[str, Any] = {}
    fixed_sizes: Sizes | None = None

    @cached_property
    def sizes(self) -> Sizes:
        """The given sizes, or the default ones; if the component rejects these, the first ones that it accepts."""
        if self.fixed_sizes is not None or self.kind == "data":
            return self.fixed_sizes or DEFAULT_SIZES
        first_error = None
        for grid in (DEFAULT_SIZES.grid, (4, 4)):
            for width in (DEFAULT_SIZES.width, *FALLBACK_WIDTHS):
                sizes = attrs.evolve(DEFAULT_SIZES, width=width, grid=grid)
                try:
                    self.build_on_meta(sizes)
                except OptionError as error:
                    first_error = first_error or error
                except Exception:
                    # The checks will report what is wrong with the component.
                    return DEFAULT_SIZES
                else:
                    return sizes
        raise Failure(
            f"it rejects all sizes that were tried ({first_error}); give sizes that it accepts: "
            f"conformance({self.cls.__name__}, Sizes(width=..., functions=..., code=..., type=..., grid=...))"
        )

    @cached_property
    def kind(self) -> str:
        """The component kind of the class."""
        kinds = [
            kind for kind, base in COMPONENT_BASES.items() if isinstance(self.cls, type) and issubclass(self.cls, base)
        ]
        if not kinds:
            bases = ", ".join(base.__name__ for base in COMPONENT_BASES.values())
            raise Failure(f"{self.cls!r} is not a component; make it a subclass of one of contracts.{{{bases}}}")
        if fault := find_contract_violation(kinds[0], self.cls):
            raise Failure(f"{self.cls.__name__} {fault}")
        return kinds[0]

    @cached_property
    def config(self) -> Any:
        """The options of the component: the given ones, examples for options without a default, and defaults."""
        assert self.kind
        values = examples_of(self.cls.Config) | dict(self.options)
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise Failure(
                f"the option `{missing[0]}` has neither a default nor an example; declare it with example=..."
            )
        try:
            return load_options(self.cls.Config, dump_values(values), resolve=resolve_config)
        except RecipeError as error:
            raise Failure(f"its options are invalid: {error.problems[0].message}") from error

    def instantiate(self, sizes: Sizes | None = None) -> Any:
        """Builds a component as the framework does, on the current default device."""
        sizes = sizes or self.sizes
        match self.kind:
            case "data":
                return self.cls(self.config, build_inner_component)
            case "linear":
                return self.cls(self.config, sizes.width, LINEAR_OUT_FEATURES, sizes.code, LINEAR_BIAS)
            case "input":
                return self.cls(self.config, sizes.width)
            case "head":
                return self.cls(self.config, sizes.width, CASE_TASKS)
            case _:
                return self.cls(self.config, sizes, build_inner_component)

    def build_on_meta(self, sizes: Sizes | None = None) -> Any:
        """Builds a component on the meta device, as `build_model` does before it initializes the values."""
        with torch.device("meta"), SkipInit():
            return self.instantiate(sizes)

    def build_perturbed(self, sizes: Sizes | None = None, seed: int = 0) -> Any:
        """Builds a component in float64 and perturbs its initial parameters, so that parameters that start at 0 matter, too."""
        module = self.build_on_meta(sizes)
        initialise_model(module, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return module.double().eval()

    def gridless_sizes(self) -> Sizes:
        """Returns the sizes without a grid. Raises `NotApplicable` if the component needs one."""
        sizes = attrs.evolve(self.sizes, grid=None)
        try:
            self.build_on_meta(sizes)
        except OptionError as error:
            raise NotApplicable(f"it needs the positions of elements: {error.message}") from error
        return sizes


def build_inner_component(kind: str, spec: ComponentSpec, /, *sizes: Any) -> Any:
    """Builds the components inside the one under test; a `contracts.ComponentFactory`."""
    return resolve_component(kind, spec.use)(spec.options, *sizes)
