"""What routers that change another router's work have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

from torch import Tensor

from ni_framework.contracts import Build, Choice, Router, Sizes


class AroundRouter(Router, ABC):
    """Base of routers that hold another one, `inner`: they share what it promises, and pass statistics on to it."""

    def __init__(self, inner: Choice, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.inner: Router = build("router", inner, sizes, build)
        self.normalised = self.inner.normalised
        self.gradient_through_closed = self.inner.gradient_through_closed

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        self.inner.absorb(statistics)
