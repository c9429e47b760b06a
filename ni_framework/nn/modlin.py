"""Linear maps modulated by a function's code: the weight is shared by all functions, the code scales its input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ModulatedMap(NamedTuple):
    """One map W (x * s_u) + b."""

    weight_ED: Tensor
    scale_UD: Tensor
    bias_E: Tensor | None


class Modulation:
    """One modulated map, or several that read the same rows and whose answers lie side by side, as layouts want them.

    Depends on the codes alone, so one forward of a script forms it once for all of its iterations.
    """

    def __init__(self, *maps: ModulatedMap) -> None:
        self.maps = maps
        self._folded_UED: Tensor | None = None

    def form(self) -> None:
        """Forms what one iteration would form for all, where each has to find the same."""
        _ = self.folded_UED

    @property
    def folded_UED(self) -> Tensor:
        """W diag(s_u), a matrix for each function: small beside the rows that it spares from being scaled."""
        folded_UED = self._folded_UED
        if folded_UED is None:
            folded_UED = lowered(torch.cat([of.weight_ED * of.scale_UD.unsqueeze(1) for of in self.maps], dim=1))
        if not torch.compiler.is_compiling():  # which would compile once for what is there and once for what is not
            self._folded_UED = folded_UED
        return folded_UED

    @property
    def bias_E(self) -> Tensor | None:
        """The biases side by side, 0 for maps without one; None if none has one."""
        if all(of.bias_E is None for of in self.maps):
            return None
        return torch.cat(
            [of.weight_ED.new_zeros(len(of.weight_ED)) if of.bias_E is None else of.bias_E for of in self.maps]
        )


def lowered(tensor: Tensor) -> Tensor:
    """In the precision in which autocast would multiply it: lowered once for all products that it enters.

    Autocast itself lowers it again for each of them, unless it is a parameter.
    """
    kind = tensor.device.type
    if tensor.dtype == torch.float32 and not tensor.is_meta and torch.is_autocast_enabled(kind):
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor


def scale_of(code_UC: Tensor, weight_DC: Tensor) -> Tensor:
    """The scale [U, D] that each code puts on the input of a linear map: LN(W_c code), LN without affine.

    Source: Neural Interpreters, equation 3.
    """
    return F.layer_norm(F.linear(code_UC, weight_DC), weight_DC.shape[:1])


def modlin(x_RD: Tensor, scale_RD: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    """W (x * s) + b, [R, E]: an ordinary product over any set of rows, however many functions they belong to.

    Source: Neural Interpreters, equation 3, with s = LN(W_c code) of the row's function.
    """
    return F.linear(x_RD * scale_RD, weight_ED, bias_E)
