"""What tells functions apart: a signature and a code each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Build, Embedding, NoOptions, Sizes
from ni_framework.options import config, option


class Separate(Embedding):
    """A signature [U, T] and a code [U, C] for each function, free of each other.

    Source: Neural Interpreters, section 3.2. Frozen ones keep their random start, as the author's digits preset keeps signatures.
    """

    @config
    class Config:
        signatures: Literal["learned", "frozen"] = option(default="learned", help="whether signatures move in training")
        codes: Literal["learned", "frozen"] = option(default="learned", help="whether codes move in training")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.signature = nn.Parameter(torch.empty(sizes.functions, sizes.type), config.signatures == "learned")
        self.code = nn.Parameter(torch.empty(sizes.functions, sizes.code), config.codes == "learned")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Signatures in all directions alike, codes normal."""
        nn.init.normal_(self.signature)
        nn.init.normal_(self.code)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.signature, self.code


class Consolidated(Embedding):
    """One vector for each function, from which two MLPs make its signature [U, T] and its code [U, C].

    The code is brought to the scale of a free one by a LayerNorm without affine. Source: the author's
    `consolidate_function_embeddings`, which has no such norm: signatures and codes then start close to each other.
    """

    @config
    class Config:
        width: int | None = option(default=None, ge=1, help="width of the vector; null takes the width of an element")
        hidden: int | None = option(default=None, ge=1, help="hidden width of both MLPs; null takes the vector's")
        depth: int = option(default=2, ge=1, help="number of linear layers in each MLP")

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        width = config.width or sizes.width
        self.table = nn.Parameter(torch.empty(sizes.functions, width))
        self.to_signature = _mlp(width, config.hidden or width, sizes.type, config.depth)
        self.to_code = _mlp(width, config.hidden or width, sizes.code, config.depth)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table)

    def forward(self) -> tuple[Tensor, Tensor]:
        code_UC = self.to_code(self.table)
        return self.to_signature(self.table), F.layer_norm(code_UC, code_UC.shape[-1:])


class NoEmbedding(Embedding):
    """Nothing tells functions apart: signatures and codes are zero and have no parameters.

    For recipes whose router and linear maps read neither, as a transformer's do.
    """

    Config = NoOptions
    zero: Tensor

    def __init__(self, config: NoOptions, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # knows device and dtype

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.zero)

    def forward(self) -> tuple[Tensor, Tensor]:
        sizes = self.sizes
        return self.zero.expand(sizes.functions, sizes.type), self.zero.expand(sizes.functions, sizes.code)


def _mlp(in_features: int, hidden: int, out_features: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(in_features, hidden), nn.GELU()]
        in_features = hidden
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))
