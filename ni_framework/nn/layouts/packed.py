"""Open pairs only: rows are [P, ...], groups of function and sample one after the other, the smaller ones first."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from ni_framework.nn.attention import CLOSED, key_bias, modulated_attention
from ni_framework.nn.cpu.block_attention import Block, block_attention
from ni_framework.nn.cpu.dispatch import by_hand
from ni_framework.nn.cpu.matmul import scaled_product
from ni_framework.nn.cpu.permute_rows import permuted
from ni_framework.nn.modlin import Modulation, lowered, modlin

# Open fraction below which open pairs alone are faster than all: measured on two CPU cores with `ni bench` and
# tests/benchmarks/speed.py, for models of 80 and 192 features, 3 to 16 functions and batches of 1 to 32. Not measured elsewhere,
# where a packed iteration has to promise more.
BREAK_EVEN = {"cpu": 0.75}


def packing_pays(compatibility_BUV: Tensor) -> bool:
    """Whether so few pairs are open that computing them alone is faster than computing all."""
    open_fraction = int(torch.count_nonzero(compatibility_BUV)) / max(compatibility_BUV.numel(), 1)
    return open_fraction < BREAK_EVEN.get(compatibility_BUV.device.type, 0.25)


class PackedPairs:
    """The packed layout of `contracts.Pairs`: a pair with compatibility 0 has no row, so it costs nothing.

    W is shared by all functions, so that rows are scaled and multiplied once, whosever they are. Groups of equal size lie
    side by side, so that attention computes nothing but open pairs; off the CPU it pads groups to the largest instead. P is
    read from the compatibilities, so the host waits for the device once per iteration. `share_BUV` is what results are pooled
    with where that is not the compatibility.
    """

    def __init__(
        self, compatibility_BUV: Tensor, multiplicity_V: Tensor | None = None, share_BUV: Tensor | None = None
    ) -> None:
        num_samples, self._num_functions, self._num_elements = compatibility_BUV.shape
        self._num_samples, self._num_groups = num_samples, num_samples * self._num_functions
        c_X = compatibility_BUV.transpose(0, 1).reshape(-1)  # function, sample, element
        open_P = c_X.detach().nonzero().squeeze(1)
        group_P = open_P.div(self._num_elements, rounding_mode="floor")
        self._count_G = torch.bincount(group_P, minlength=self._num_groups)
        self._longest = int(self._count_G.max()) if self._num_groups else 0
        order_P = torch.argsort(self._count_G[group_P], stable=True)
        open_P, self._group_P = open_P[order_P], group_P[order_P]
        self._element_P = open_P % self._num_elements
        self.function_P = self._group_P.div(num_samples, rounding_mode="floor")
        self._source_P = open_P % (num_samples * self._num_elements)  # row of [B * V, ...]
        value_P = c_X.index_select(0, open_P)
        self.compatibility = self._share = value_P.unsqueeze(-1)
        if share_BUV is not None:
            self._share = share_BUV.transpose(0, 1).reshape(-1).index_select(0, open_P).unsqueeze(-1)
        # Asked for several times a line of code, but only off the CPU, under autocast or by a compiler.
        self._known_place_P = None if by_hand(value_P) else self._places()
        self._bias_P = key_bias(value_P, None if multiplicity_V is None else multiplicity_V[self._element_P])

    def share(self, x_BVD: Tensor) -> Tensor:
        return x_BVD.flatten(0, 1).index_select(0, self._source_P)

    def spread(self, value_UX: Tensor) -> Tensor:
        return value_UX.index_select(0, self.function_P)

    def modulate(self, x_RD: Tensor, modulation: Modulation) -> Tensor:
        if by_hand(x_RD, *(of.weight_ED for of in modulation.maps)):
            return scaled_product(x_RD, self.function_P, modulation.maps)
        x_RD = lowered(x_RD)
        products = [modlin(x_RD, self.spread(lowered(of.scale_UD)), of.weight_ED, of.bias_E) for of in modulation.maps]
        return torch.cat(products, dim=-1) if len(products) > 1 else products[0]

    def multiply(self, x_RD: Tensor, weight_UED: Tensor) -> Tensor:
        out = x_RD.new_empty(0, weight_UED.shape[1])
        row_F = [(self.function_P == function).nonzero().squeeze(1) for function in range(self._num_functions)]
        product = torch.cat([out, *(x_RD[row] @ weight.T for row, weight in zip(row_F, weight_UED, strict=True))])
        return torch.empty_like(product).index_copy(0, torch.cat(row_F), product)

    def attend(self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None) -> Tensor:
        # Without any open pair the plain way: there, positions take part and get a gradient, which is zero.
        if self._longest and by_hand(query_RHK, key_RHK, value_RHE, self._bias_P):
            return self._attend_exactly(query_RHK, key_RHK, value_RHE, position_UHVV)
        query, key, value = (self._padded(rows).transpose(1, 2) for rows in (query_RHK, key_RHK, value_RHE))
        bias = self._padded(self._bias_P, CLOSED)[:, None, None, :]
        position = None
        if position_UHVV is not None:
            function_G = torch.arange(self._num_groups, device=bias.device) // self._num_samples
            position = _chosen(position_UHVV, function_G, self._padded(self._element_P))
        attended = modulated_attention(query, key, value, bias, position).transpose(1, 2)  # [G, L, H, E]
        return attended.flatten(0, 1).index_select(0, self._place_P)

    def place(self, x_RD: Tensor) -> Tensor:
        shape = self._num_samples, self._num_functions, self._num_elements
        placed = x_RD.new_zeros(math.prod(shape), *x_RD.shape[1:])
        return placed.index_copy(0, self._pair_P, x_RD).unflatten(0, shape)

    def take(self, x_BUVD: Tensor) -> Tensor:
        return x_BUVD.flatten(0, 2).index_select(0, self._pair_P)

    def pool(self, y_RD: Tensor) -> Tensor:
        """sum_u c_ui y_ui, [B, V, D]; elements without any function get 0."""
        shape = self._num_samples, self._num_elements
        pooled = y_RD.new_zeros(shape[0] * shape[1], y_RD.shape[-1])
        return pooled.index_add(0, self._source_P, self._share * y_RD).unflatten(0, shape)

    def _attend_exactly(
        self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None
    ) -> Tensor:
        """Groups of equal size together, each head of a group as a group of its own, so that one product serves all heads."""
        heads = query_RHK.shape[1]
        order_X, back_X = self._by_heads(heads)
        query, key, value = (permuted(rows.flatten(0, 1), order_X, back_X) for rows in (query_RHK, key_RHK, value_RHE))
        bias_X = permuted(self._bias_P.unsqueeze(1).expand(-1, heads).flatten(), order_X, back_X)
        blocks = [Block(block.groups * heads, block.size) for block in self._blocks]
        positions = [] if position_UHVV is None else self._positions(position_UHVV)
        attended_XE = block_attention(query, key, value, bias_X, blocks, positions)
        return permuted(attended_XE, back_X, order_X).unflatten(0, (-1, heads))

    @property
    def _pair_P(self) -> Tensor:
        """Row of [B * U * V, ...] of each pair."""
        sample_P = self._group_P % self._num_samples
        return (sample_P * self._num_functions + self.function_P) * self._num_elements + self._element_P

    @property
    def _blocks(self) -> list[Block]:
        """Groups of equal size, as they lie; empty ones are left out."""
        numbers = Counter(self._count_G.tolist())
        return [Block(numbers[size], size) for size in sorted(numbers) if size]

    def _by_heads(self, heads: int) -> tuple[Tensor, Tensor]:
        """Rows [P * H] in the order block, group, head, element: which row comes where, and where each row is."""
        size_P, device = self._count_G[self._group_P], self._count_G.device
        start_P = self._start_G[self._group_P]
        place_P = start_P * (heads - 1) + torch.arange(len(size_P), device=device)  # of the row's first head
        back_X = torch.addcmul(place_P[:, None], size_P[:, None], torch.arange(heads, device=device)).flatten()
        return torch.empty_like(back_X).index_copy(0, back_X, torch.arange(len(back_X), device=device)), back_X

    @property
    def _start_G(self) -> Tensor:
        """The first row of each group."""
        order_G = torch.argsort(self._count_G, stable=True)
        count_G = self._count_G[order_G]
        return torch.empty_like(count_G).index_copy(0, order_G, count_G.cumsum(0) - count_G)

    @property
    def _place_P(self) -> Tensor:
        """Where each row lies if all groups are as long as the longest."""
        return self._places() if self._known_place_P is None else self._known_place_P

    def _places(self) -> Tensor:
        slot_P = torch.arange(len(self._group_P), device=self._count_G.device) - self._start_G[self._group_P]
        return self._group_P * self._longest + slot_P

    def _padded(self, rows: Tensor, padding: float = 0.0) -> Tensor:
        """Rows [P, ...] -> [G, L, ...], the missing ones padded."""
        padded = rows.new_full((self._num_groups * self._longest, *rows.shape[1:]), padding)
        return padded.index_copy(0, self._place_P, rows).unflatten(0, (self._num_groups, self._longest))

    def _positions(self, position_UHVV: Tensor) -> list[Tensor]:
        """[groups * H, size, size] of each block: the logits of its groups' own elements."""
        sizes = [block.groups * block.size for block in self._blocks]
        parts = zip(self._blocks, self.function_P.split(sizes), self._element_P.split(sizes), strict=True)
        return [
            _chosen(position_UHVV, function_P[:: block.size], element_P.unflatten(0, (-1, block.size))).flatten(0, 1)
            for block, function_P, element_P in parts
        ]


def _chosen(position_UHVV: Tensor, function_G: Tensor, element_GL: Tensor) -> Tensor:
    """[G, H, L, L] of each group's function, or of the only one there is, and elements."""
    if len(position_UHVV) == 1:
        function_G = torch.zeros_like(function_G)
    place = function_G[:, None, None], element_GL[:, :, None], element_GL[:, None, :]
    return position_UHVV.permute(0, 2, 3, 1)[place].permute(0, 3, 1, 2)
