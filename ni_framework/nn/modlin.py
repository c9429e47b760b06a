"""Linear maps modulated by a function's code: the weight is shared by all functions, the code scales its input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ModulatedMap(NamedTuple):
    """One map W (x * s_u) + b of the rows x of function u."""

    weight_ED: Tensor
    scale_UD: Tensor
    bias_E: Tensor | None


class Modulation:
    """One modulated map, or several that read the same rows and whose results are concatenated, in the form that layouts use.

    It depends on the codes alone, so one forward of a script computes it once for all of its iterations.
    """

    def __init__(self, *maps: ModulatedMap) -> None:
        self.maps = maps
        self._folded_UED: Tensor | None = None

    def precompute(self) -> None:
        """Computes what is otherwise computed at the first use, for cases where all uses must share one tensor."""
        _ = self.folded_UED

    @property
    def folded_UED(self) -> Tensor:
        """W diag(s_u), a matrix for each function. It is small compared to the rows, which then need no scaling."""
        folded_UED = self._folded_UED
        if folded_UED is None:
            folded_UED = to_autocast_dtype(
                torch.cat([weight_ED * scale_UD.unsqueeze(1) for weight_ED, scale_UD, _ in self.maps], dim=1)
            )
        # Under a compiler, a cache would cause two compilations: with and without the cached tensor.
        if not torch.compiler.is_compiling():
            self._folded_UED = folded_UED
        return folded_UED

    @property
    def bias_E(self) -> Tensor | None:
        """The concatenated biases, with zeros for maps without a bias; None if no map has one."""
        if all(bias_E is None for _, _, bias_E in self.maps):
            return None
        return torch.cat(
            [weight_ED.new_zeros(len(weight_ED)) if bias_E is None else bias_E for weight_ED, _, bias_E in self.maps]
        )


def to_autocast_dtype(tensor: Tensor) -> Tensor:
    """Returns the tensor in the precision in which autocast would multiply it, cast once for all of its products.

    Autocast itself would cast it again for each product, unless it is a parameter.
    """
    device_type = tensor.device.type
    if tensor.dtype == torch.float32 and not tensor.is_meta and torch.is_autocast_enabled(device_type):
        return tensor.to(torch.get_autocast_dtype(device_type))
    return tensor


def code_scale(code_UC: Tensor, weight_DC: Tensor) -> Tensor:
    """Returns the scale [U, D] by which each code multiplies the input of a linear map: LN(W_c code), LN without affine.

    Source: Neural Interpreters, equation 3.
    """
    return F.layer_norm(F.linear(code_UC, weight_DC), weight_DC.shape[:1])


def modlin(x_RD: Tensor, scale_RD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    """Returns W (x * s) + b, [R, E]: one product of all rows, however many functions they belong to.

    Source: Neural Interpreters, equation 3, with s = LN(W_c code) of the row's function.
    """
    return F.linear(x_RD * scale_RD, weight_ED, bias_E)
