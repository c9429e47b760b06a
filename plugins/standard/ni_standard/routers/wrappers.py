"""What routers that change another router's work have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

from torch import Tensor

from ni_framework.contracts import Answer, Build, Choice, Context, Router, Sizes

_INNER = "inner."  # before the names of the inner router's statistics: it may be of the same kind


class AroundRouter(Router, ABC):
    """Base of routers that hold another one, `inner`: they share what it promises, and pass statistics on to it."""

    def __init__(self, inner: Choice, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.inner: Router = build("router", inner, sizes, build)
        self.normalised = self.inner.normalised
        self.gradient_through_closed = self.inner.gradient_through_closed
        self.grows = self.inner.grows

    def ask(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Answer:
        """The inner router's answer."""
        answer = Answer.of(self.inner(type_BVT, signature_UT, context))
        return answer._replace(statistics={f"{_INNER}{name}": value for name, value in answer.statistics.items()})

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        names = [name for name in statistics if name.startswith(_INNER)]
        self.inner.absorb({name.removeprefix(_INNER): statistics[name] for name in names})
