"""Functions that are left out at random in training."""

from __future__ import annotations

from torch import Tensor

from ni_framework.contracts import Answer, Build, Choice, Context, Sizes
from ni_framework.options import component, config, option
from ni_standard.routers.wrappers import AroundRouter


class FunctionDropout(AroundRouter):
    """Another router's compatibilities, 0 for functions that are left out of a sample: -> [B, U, V].

    Each function is kept with probability `keep`, drawn for each sample. In evaluation all are kept and compatibilities are
    multiplied by `keep`, their mean in training. Elements whose functions are all left out keep their state. Source: the
    author's `FunctionDropout`.
    """

    @config
    class Config:
        keep: float = option(default=0.9, gt=0, le=1, help="probability with which a function is kept")
        once: bool = option(default=False, help="whether the same functions are left out in all iterations")
        inner: Choice = component("router", default="kernel", help="the router whose functions are left out")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__(config.inner, sizes, build)
        self.config = config

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Answer:
        answer = self.ask(type_BVT, signature_UT, context)
        if not self.training:
            return answer._replace(result=self.config.keep * answer.result)
        uniform_BU = context.noise.uniform("keep", len(signature_UT), once=self.config.once)
        return answer._replace(result=answer.result * (uniform_BU < self.config.keep).unsqueeze(-1))
