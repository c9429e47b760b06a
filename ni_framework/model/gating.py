"""Functions that were added to a trained script: routed like all others, and pooled by a share that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ni_framework.recipe.schema import Script


class Routed(NamedTuple):
    """What routing decides, [B, U, V] each: how open a pair is to the function itself, and how much of its result is pooled."""

    compatibility_BUV: Tensor
    share_BUV: Tensor

    def of(self, functions: list[int]) -> Routed:
        """The same of some functions."""
        return Routed(self.compatibility_BUV[:, functions], self.share_BUV[:, functions])

    def among(self, number: int, functions: list[int]) -> Routed:
        """The same among `number` functions, of which these are `functions`: all others are closed."""
        if len(functions) == number:
            return self
        place_U = torch.tensor(functions, device=self.share_BUV.device)
        shape = len(self.share_BUV), number, self.share_BUV.shape[2]
        return Routed(*(of.new_zeros(shape).index_copy(1, place_U, of) for of in self))


def composed(found: Sequence[Tensor], gates_G: Tensor, normalised: bool) -> Routed:
    """Compatibilities and shares of functions that came in generations: those a script began with, and each growth's.

    `found` has the router's answer to the functions of the first generation, of the first two, and so on: [B, U_j, V]. A
    function works with its compatibility among those that were there when it came, c_u, and is pooled with

        share_u   <- g_u c_u                                    for a function of generation j, whose gate is g_u
        share_u'  <- share_u' (1 - sum_{u in j} g_u c_u)         for those before it, if compatibilities sum to one

    so that with gates of 0 nothing changes, with gates of 1 the paper's kernel c_ui = k_ui / (eps + sum_u k_ui) holds over all
    functions, and what later generations do never changes what an earlier one is to itself. The gate is not in the function:
    there, at 0, the pair would be closed, the stream would pass it by, and the gate's gradient would know nothing of its code.
    Extends Neural Interpreters, equation 2; gates have no bounds.
    """
    compatibility_BUV = share_BUV = found[0]
    begun = found[0].shape[1]
    for so_far_BUV in found[1:]:
        number = compatibility_BUV.shape[1]
        new_BGV = so_far_BUV[:, number:]
        gate_G = gates_G[number - begun : so_far_BUV.shape[1] - begun]
        taken_BGV = gate_G.to(new_BGV.dtype).unsqueeze(-1) * new_BGV
        if normalised:
            share_BUV = share_BUV * (1 - taken_BGV.sum(dim=1, keepdim=True))
        compatibility_BUV = torch.cat([compatibility_BUV, new_BGV], dim=1)
        share_BUV = torch.cat([share_BUV, taken_BGV], dim=1)
    return Routed(compatibility_BUV, share_BUV)


def functions_of_bodies(script: Script) -> list[list[int]]:
    """The functions that each body of a script has: those of its own body, then of each growth that brought another."""
    own = [number for grown, numbers in script.members if grown is None or grown.body is None for number in numbers]
    return [own, *(list(numbers) for grown, numbers in script.members if grown is not None and grown.body is not None)]
