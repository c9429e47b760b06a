"""Functions that read the neighbourhood of an element, and a mean, instead of attending to all elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_expert_bodies.masked_convolution import masked_convolution
from ni_framework.contracts import Body, ComponentFactory, ComponentSpec, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.options import component_option, config, option


class _PreparedConvolution(NamedTuple):
    """What is computed once per forward from the codes."""

    kernel_UDYX: Tensor
    mean_UD: Tensor
    maps: dict[str, Any]


class Convolution(Body):
    """a = x + c W_o o, y = a + c MLP(LN(a)), o a depth-wise convolution: [B, V, D] -> [R, D].

    A line of code (Neural Interpreters, equations 6 and 7) with a convolution in place of attention. The kernels are a
    linear map of the function's code, K_u = K_0 + W_K code_u. With z = LN(x), and N_i the neighbours of i under the kernel,

        o_i = sum_{j in N_i} w_ij K_u[j - i] * z_j + k_u * sum_j w_j z_j,    w_ij = c_uj / sum_{j in N_i} c_uj,  w_j likewise

    so elements are weighted by their compatibilities, as in equation 5, and the scale does not depend on the number of elements.
    The second sum goes over all elements that the function takes; its weight k_u for each feature is also a linear map of the
    code. Elements without a position on the grid (CLS elements and registers) take part in the second sum only. Source:
    depth-wise convolution, Chollet 2017, "Xception"; normalisation by the weights: Knutsson and Westin 1993, "Normalized and
    differential convolution", Liu et al. 2018, "Image inpainting for irregular holes using partial convolutions", equation 1.
    """

    api = 2

    @config
    class Config:
        kernel: int = option(default=3, ge=1, help="rows and columns of a kernel, an odd number")
        hidden: int | None = option(
            default=None, ge=1, help="hidden width of the MLP; null takes the width of an element"
        )
        linear: ComponentSpec = component_option(
            "linear", default="modlin", help="the linear maps after the convolution"
        )

        def __attrs_post_init__(self) -> None:
            if self.kernel % 2 == 0:
                raise OptionError(
                    "kernel",
                    f"a kernel of {self.kernel} has no centre, so it would shift the elements",
                    f"choose an odd number, such as {self.kernel - 1} or {self.kernel + 1}",
                )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        if sizes.grid is None:
            raise OptionError(
                "",
                "the input's elements have no positions on a grid, so they have no neighbours",
                "use another body, such as `lines_of_code`, or the input `patches`",
            )
        width, code, hidden = sizes.width, sizes.code, config.hidden or sizes.width
        self.grid, self.kernel_size = sizes.grid, config.kernel
        self.kernel_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.kernel = nn.Linear(code, width * config.kernel**2)
        self.mean = nn.Linear(code, width)
        self.maps = nn.ModuleDict(
            {
                "out": build("linear", config.linear, width, width, code, True),
                "mlp_in": build("linear", config.linear, width, hidden, code, True),
                "mlp_out": build("linear", config.linear, hidden, width, code, True),
            }
        )

    def prepare(self, code_UC: Tensor, num_elements: int) -> _PreparedConvolution:
        size = self.kernel_size
        kernel_UDYX = self.kernel(code_UC).unflatten(-1, (-1, size, size))
        maps = {name: linear.prepare(code_UC) for name, linear in self.maps.items()}  # pyright: ignore[reportCallIssue]
        return _PreparedConvolution(kernel_UDYX, self.mean(code_UC), maps)

    def forward(self, x_BVD: Tensor, prepared: _PreparedConvolution, pairs: Pairs) -> Tensor:
        def linear(name: str, rows: Tensor) -> Tensor:
            return self.maps[name](rows, prepared.maps[name], pairs)

        x_RD, c_R1 = pairs.dispatch(x_BVD), pairs.compatibility
        z_RD = self.kernel_norm(x_RD)
        near_RD = masked_convolution(z_RD, prepared.kernel_UDYX, self.grid, pairs)
        # With equal keys, attention is the mean of a function's elements, weighted by their compatibilities.
        equal_R11 = torch.zeros_like(z_RD[..., None, :1])
        mean_RD = pairs.attention(equal_R11, equal_R11, z_RD.unsqueeze(-2), None).squeeze(-2)
        a_RD = torch.addcmul(x_RD, c_R1, linear("out", near_RD + pairs.expand(prepared.mean_UD) * mean_RD))
        return torch.addcmul(a_RD, c_R1, linear("mlp_out", F.gelu(linear("mlp_in", self.mlp_norm(a_RD)))))
