"""Functions that share nothing: each has the weights of a transformer layer for itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_expert_bodies.private_map import PrivateMap
from ni_framework.contracts import Body, Build, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option


class Experts(Body):
    """a = x + c Attention_u(LN(x)), y = a + c MLP_u(LN(a)), all weights the function's own: [B, V, D] -> [R, D].

    A line of code (Neural Interpreters, equations 4 to 7) in which private matrices stand in for those that the code
    modulates, as the experts of a mixture (Shazeer et al. 2017, "Outrageously large neural networks"; the attention among an
    expert's own elements: equation 5 here, no part of it there). The code is left a gain of the MLP's hidden layer,
    f = W_2 (GELU(W_1 z + b_1) * (1 + G code)) + b_2, one G for all functions. LN has no affine map, which would be one with
    the matrices after it.
    """

    api = 1

    @config
    class Config:
        heads: int = option(default=4, ge=1, help="attention heads, H")
        key: int = option(default=16, ge=1, help="width of a query and a key in each head, K")
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the MLP; null takes the width of an element"
        )

    def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
        super().__init__()
        if sizes.width % config.heads:
            raise OptionError(
                "heads",
                f"{config.heads} heads cannot share a width of {sizes.width}",
                "choose a number of heads that divides model.width",
            )
        functions, width, hidden = sizes.functions, sizes.width, config.hidden or sizes.width
        self.heads = config.heads
        self.query = PrivateMap(functions, width, config.heads * config.key, bias=False)
        self.key = PrivateMap(functions, width, config.heads * config.key, bias=False)
        self.value = PrivateMap(functions, width, width)
        self.out = PrivateMap(functions, width, width)
        self.mlp_in = PrivateMap(functions, width, hidden)
        self.mlp_out = PrivateMap(functions, hidden, width)
        self.gain = nn.Linear(sizes.code, hidden, bias=False)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Tensor:
        return 1 + self.gain(code_UC)  # [U, hidden]

    def forward(self, x_BVD: Tensor, prepared: Tensor, pairs: Pairs) -> Tensor:
        x_RD, c_R1 = pairs.share(x_BVD), pairs.compatibility
        z_RD = F.layer_norm(x_RD, x_RD.shape[-1:])
        query_RHK, key_RHK, value_RHE = (
            of(z_RD, pairs).unflatten(-1, (self.heads, -1)) for of in (self.query, self.key, self.value)
        )
        attended_RD = pairs.attend(query_RHK, key_RHK, value_RHE, None).flatten(-2)
        a_RD = torch.addcmul(x_RD, c_R1, self.out(attended_RD, pairs))
        hidden_RX = F.gelu(self.mlp_in(F.layer_norm(a_RD, a_RD.shape[-1:]), pairs))
        return torch.addcmul(a_RD, c_R1, self.mlp_out(hidden_RX * pairs.spread(prepared), pairs))
