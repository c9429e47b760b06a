"""Embeddings: the signature and the code of each function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import ComponentFactory, Embedding, NoOptions, Sizes
from ni_framework.options import config, option


class Separate(Embedding):
    """A signature [U, T] and a code [U, C] for each function, as independent parameters.

    Source: Neural Interpreters, section 3.2. Frozen ones keep their random initial values; the author's digits preset freezes
    the signatures.
    """

    @config
    class Config:
        signatures: Literal["learned", "frozen"] = option(default="learned", help="whether signatures are trained")
        codes: Literal["learned", "frozen"] = option(default="learned", help="whether codes are trained")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.signature = nn.Parameter(torch.empty(sizes.functions, sizes.type), config.signatures == "learned")
        self.code = nn.Parameter(torch.empty(sizes.functions, sizes.code), config.codes == "learned")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws normal signatures, so that all directions are equally likely, and normal codes."""
        nn.init.normal_(self.signature)
        nn.init.normal_(self.code)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.signature, self.code


class Consolidated(Embedding):
    """One vector for each function; two MLPs map it to the signature [U, T] and to the code [U, C].

    A LayerNorm without affine map gives the code the scale that it has in `separate`. Source: the author's
    `consolidate_function_embeddings`, which has no such norm: there the codes of all functions are close to each other at the
    start, and so are the signatures.
    """

    @config
    class Config:
        width: int | None = option(default=None, ge=1, help="width of the vector; null takes the width of an element")
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of both MLPs; null takes the width of the vector"
        )
        depth: int = option(default=2, ge=1, help="number of linear layers in each MLP")

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        width = config.width or sizes.width
        # The number of functions of each generation; a script with added functions sets them after building.
        self.generations = (sizes.functions,)
        self.table = nn.Parameter(torch.empty(sizes.functions, width))
        self.to_signature = _build_mlp(width, config.hidden or width, sizes.type, config.depth)
        self.to_code = _build_mlp(width, config.hidden or width, sizes.code, config.depth)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table)

    def forward(self) -> tuple[Tensor, Tensor]:
        if len(self.generations) == 1:
            return self._embed(self.table)
        # A product for each generation: a processor may round a product with more rows differently, and functions that are
        # added must not change the old ones by a single bit.
        embedded = [self._embed(table_GX) for table_GX in self.table.split(self.generations)]
        signatures, codes = zip(*embedded, strict=True)
        return torch.cat(signatures), torch.cat(codes)

    def _embed(self, table_UX: Tensor) -> tuple[Tensor, Tensor]:
        code_UC = self.to_code(table_UX)
        return self.to_signature(table_UX), F.layer_norm(code_UC, code_UC.shape[-1:])


class NoEmbedding(Embedding):
    """No signatures and codes: both are zero and have no parameters.

    For recipes whose router and linear maps read neither, such as a transformer.
    """

    Config = NoOptions
    zero: Tensor

    def __init__(self, config: NoOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.sizes = sizes
        # A buffer, because it follows the device and dtype of the model.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.zero)

    def forward(self) -> tuple[Tensor, Tensor]:
        sizes = self.sizes
        return self.zero.expand(sizes.functions, sizes.type), self.zero.expand(sizes.functions, sizes.code)


def _build_mlp(in_features: int, hidden: int, out_features: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(in_features, hidden), nn.GELU()]
        in_features = hidden
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))
