"""The base of routers that change the result of another router."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

from torch import Tensor

from ni_framework.contracts import ComponentFactory, ComponentSpec, Context, Output, Router, Sizes

# Prefix of the names of the inner router's statistics, because the inner router may be of the same class.
_INNER_PREFIX = "inner."


class RouterWrapper(Router, ABC):
    """Base of routers around another one, `inner`: they copy its class attributes, and pass its statistics on to it."""

    def __init__(self, inner: ComponentSpec, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.inner: Router = build("router", inner, sizes, build)
        self.normalised = self.inner.normalised
        self.straight_through = self.inner.straight_through
        self.supports_growth = self.inner.supports_growth

    def call_inner(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Output:
        """Returns the output of the inner router, with prefixed names of statistics."""
        output = Output.wrap(self.inner(type_BVT, signature_UT, context))
        return output._replace(
            statistics={f"{_INNER_PREFIX}{name}": value for name, value in output.statistics.items()}
        )

    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        names = [name for name in statistics if name.startswith(_INNER_PREFIX)]
        self.inner.update_buffers({name.removeprefix(_INNER_PREFIX): statistics[name] for name in names})
