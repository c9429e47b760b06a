"""A router wrapper that drops functions at random in training."""

from __future__ import annotations

from torch import Tensor

from ni_framework.contracts import ComponentFactory, ComponentSpec, Context, Output, Sizes
from ni_framework.options import component_option, config, option
from ni_standard.routers.wrappers import RouterWrapper


class FunctionDropout(RouterWrapper):
    """The compatibilities of another router, 0 for the functions that are dropped for a sample: -> [B, U, V].

    Each function is kept with probability `keep`, drawn for each sample. In evaluation all functions are kept and the
    compatibilities are multiplied by `keep`, which gives their mean in training. An element whose functions are all dropped
    keeps its state. Source: the author's `FunctionDropout`.
    """

    @config
    class Config:
        keep: float = option(default=0.9, gt=0, le=1, help="probability with which a function is kept")
        once: bool = option(default=False, help="whether the same functions are dropped in all iterations")
        inner: ComponentSpec = component_option(
            "router", default="kernel", help="the router whose functions are dropped"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__(config.inner, sizes, build)
        self.config = config

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Output:
        output = self.call_inner(type_BVT, signature_UT, context)
        if not self.training:
            return output._replace(value=self.config.keep * output.value)
        uniform_BU = context.noise.uniform("keep", len(signature_UT), per_forward=self.config.once)
        return output._replace(value=output.value * (uniform_BU < self.config.keep).unsqueeze(-1))
