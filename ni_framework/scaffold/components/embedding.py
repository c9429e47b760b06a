"""An embedding: the signatures and codes that distinguish the functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ni_framework.contracts import ComponentFactory, Embedding, Sizes
from ni_framework.options import config, option


class Example(Embedding):
    """Signatures [U, T] and codes [U, C] as mixtures of a few basis vectors that all functions share."""

    api = 2

    @config
    class Config:
        bases: int = option(default=8, ge=1, help="the number of basis vectors")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        # The weights of the basis vectors, [U, bases]; the basis vectors are shared.
        self.mixture = nn.Parameter(torch.empty(sizes.functions, config.bases))
        self.signature = nn.Linear(config.bases, sizes.type, bias=False)
        self.code = nn.Linear(config.bases, sizes.code, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.mixture)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.signature(self.mixture), self.code(self.mixture)
