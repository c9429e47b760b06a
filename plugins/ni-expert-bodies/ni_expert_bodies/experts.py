"""Functions that share no weights: each has the weights of a transformer layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_expert_bodies.private_map import PrivateMap
from ni_framework.contracts import Body, ComponentFactory, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import config, option


class Experts(Body):
    """a = x + c Attention_u(LN(x)), y = a + c MLP_u(LN(a)), with private weights for each function: [B, V, D] -> [R, D].

    A line of code (Neural Interpreters, equations 4 to 7) with private matrices in place of those that the code modulates, like
    the experts of a mixture (Shazeer et al. 2017, "Outrageously large neural networks"). The attention among an expert's
    elements is equation 5 of Neural Interpreters; a mixture of experts has none. The code determines a gain of the hidden layer
    of the MLP only: f = W_2 (GELU(W_1 z + b_1) * (1 + G code)) + b_2, with one G for all functions. LN has no affine map,
    because the matrices after it can represent one.
    """

    api = 2

    @config
    class Config:
        heads: int = option(default=4, ge=1, help="attention heads, H")
        key: int = option(default=16, ge=1, help="width of a query and a key in each head, K")
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the MLP; null takes the width of an element"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
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
        x_RD, c_R1 = pairs.dispatch(x_BVD), pairs.compatibility
        z_RD = F.layer_norm(x_RD, x_RD.shape[-1:])
        query_RHK, key_RHK, value_RHE = (
            linear(z_RD, pairs).unflatten(-1, (self.heads, -1)) for linear in (self.query, self.key, self.value)
        )
        attended_RD = pairs.attention(query_RHK, key_RHK, value_RHE, None).flatten(-2)
        a_RD = torch.addcmul(x_RD, c_R1, self.out(attended_RD, pairs))
        hidden_RX = F.gelu(self.mlp_in(F.layer_norm(a_RD, a_RD.shape[-1:]), pairs))
        return torch.addcmul(a_RD, c_R1, self.mlp_out(hidden_RX * pairs.expand(prepared), pairs))
