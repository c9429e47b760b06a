"""Functions that were added to a trained script: routed like all others, and pooled with a weight that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ni_framework.recipe.schema import ScriptConfig


class Routing(NamedTuple):
    """What routing decides about each pair of function and element, [B, U, V] each."""

    # The compatibility that the function itself works with.
    compatibility_BUV: Tensor
    # The weight that the function's result is pooled with.
    pool_weight_BUV: Tensor

    def select_functions(self, functions: list[int]) -> Routing:
        """Returns the routing of these functions alone."""
        return Routing(self.compatibility_BUV[:, functions], self.pool_weight_BUV[:, functions])

    def scatter_to(self, num_functions: int, functions: list[int]) -> Routing:
        """Returns a routing of all functions of a script, in which every function but those of this routing is closed.

        Args:
            num_functions: the number of all functions.
            functions: the number of each function of this routing among them.
        """
        if len(functions) == num_functions:
            return self
        index_U = torch.tensor(functions, device=self.pool_weight_BUV.device)
        shape = len(self.pool_weight_BUV), num_functions, self.pool_weight_BUV.shape[2]
        return Routing(*(value_BUV.new_zeros(shape).index_copy(1, index_U, value_BUV) for value_BUV in self))


def compose_routing(compatibilities: Sequence[Tensor], gates_G: Tensor, normalised: bool) -> Routing:
    """Returns compatibilities and pool weights of functions that came in generations.

    The first generation are the functions that the script began with; each growth adds one. A function works with its
    compatibility c_u among the functions that existed when it was added. It is pooled with the weight

        p_u   <- g_u c_u                               for a function of generation j, whose gate is g_u
        p_u'  <- p_u' (1 - sum_{u in j} g_u c_u)       for the functions before it, if compatibilities sum to one

    With gates of 0 nothing changes. With gates of 1, the paper's kernel c_ui = k_ui / (eps + sum_u k_ui) holds over all
    functions. Later generations never change the compatibility that an earlier function works with. The gate does not scale
    the compatibility itself: with a gate of 0 the pair would be closed, the function would not be computed, and the gate's
    gradient would not depend on the function's code.
    Extends Neural Interpreters, equation 2; gates have no bounds.

    Args:
        compatibilities: the router's output for the functions of the first generation, of the first two, and so on:
            [B, U_j, V] each.
        gates_G: the gates of all added functions.
        normalised: whether the compatibilities of an element sum to at most one.
    """
    compatibility_BUV = pool_weight_BUV = compatibilities[0]
    num_initial = compatibilities[0].shape[1]
    for cumulative_BUV in compatibilities[1:]:
        num_seen = compatibility_BUV.shape[1]
        new_BGV = cumulative_BUV[:, num_seen:]
        gate_G = gates_G[num_seen - num_initial : cumulative_BUV.shape[1] - num_initial]
        gated_BGV = gate_G.to(new_BGV.dtype).unsqueeze(-1) * new_BGV
        if normalised:
            pool_weight_BUV = pool_weight_BUV * (1 - gated_BGV.sum(dim=1, keepdim=True))
        compatibility_BUV = torch.cat([compatibility_BUV, new_BGV], dim=1)
        pool_weight_BUV = torch.cat([pool_weight_BUV, gated_BGV], dim=1)
    return Routing(compatibility_BUV, pool_weight_BUV)


def functions_per_body(script: ScriptConfig) -> list[list[int]]:
    """Returns the functions of each body of a script: of its own body, then of each growth that brought a body."""
    own = [
        number
        for grown, numbers in script.generation_ranges
        if grown is None or grown.body is None
        for number in numbers
    ]
    return [
        own,
        *(list(numbers) for grown, numbers in script.generation_ranges if grown is not None and grown.body is not None),
    ]
