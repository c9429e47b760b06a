"""Type inferences: how the type of an element is computed from its state."""

from __future__ import annotations

from torch import Tensor, nn

from ni_framework.contracts import ComponentFactory, Context, NoOptions, Sizes, TypeInference
from ni_framework.options import config, option


class MLP(TypeInference):
    """t_i = unit(MLP(LayerNorm(x_i))): [B, V, D] -> [B, V, T], hidden layers of width D with GELU between.

    Source: Neural Interpreters, section 3.2.
    """

    @config
    class Config:
        depth: int = option(default=2, ge=1, help="number of linear layers")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(sizes.width)]
        for _ in range(config.depth - 1):
            layers += [nn.Linear(sizes.width, sizes.width), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes.width, sizes.type))

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return self.layers(x_BVD)


class NoTypes(TypeInference):
    """All types are zero, at no cost: [B, V, D] -> [B, V, T]. For routers that do not read types, such as `always_open`."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.width = sizes.type

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return x_BVD.new_zeros(*x_BVD.shape[:2], self.width)
