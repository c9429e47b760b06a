"""Linear maps modulated by a function's code: the weight is shared by all functions, the code scales its input."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor
from torch.nn import functional as F


class Modulation:
    """What W (x * s_u) needs of a weight [E, D] and the functions' scales [U, D], in the forms that layouts want.

    Depends on the codes alone, so one forward of a script forms it once for all of its iterations.
    """

    def __init__(self, weight_ED: Tensor, scale_UD: Tensor) -> None:
        self.weight_ED, self.scale_UD = weight_ED, scale_UD

    @cached_property
    def folded_UED(self) -> Tensor:
        """W diag(s_u), a matrix for each function: small beside the rows that it spares from being scaled."""
        return self.weight_ED * self.scale_UD.unsqueeze(1)


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
