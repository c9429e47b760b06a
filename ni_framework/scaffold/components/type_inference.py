"""A type inference: the position of each element in type space."""

from __future__ import annotations

from torch import Tensor, nn

from ni_framework.contracts import ComponentFactory, Context, Sizes, TypeInference
from ni_framework.options import config, option


class Example(TypeInference):
    """t_i = W2 tanh(W1 LayerNorm(x_i)): [B, V, D] -> [B, V, T]."""

    api = 2

    @config
    class Config:
        hidden: int = option(default=32, ge=1, help="the width of the hidden layer")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(sizes.width),
            nn.Linear(sizes.width, config.hidden),
            nn.Tanh(),
            nn.Linear(config.hidden, sizes.type),
        )

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return self.layers(x_BVD)
