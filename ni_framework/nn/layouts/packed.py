"""Open pairs only: rows are [P, ...], ordered by groups of one function and one sample, the smaller groups first."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from ni_framework.nn.attention import CLOSED_LOGIT, key_bias, modulated_attention
from ni_framework.nn.cpu.block_attention import Block, block_attention
from ni_framework.nn.cpu.dispatch import use_cpu_kernels
from ni_framework.nn.cpu.matmul import scaled_product
from ni_framework.nn.cpu.permute_rows import permute_rows
from ni_framework.nn.modlin import Modulation, modlin, to_autocast_dtype

# The fraction of open pairs below which computing open pairs alone is faster: measured on two CPU cores with `ni bench` and
# tests/benchmarks/speed.py, for models of 80 and 192 features, 3 to 16 functions and batches of 1 to 32. Other devices were
# not measured and have a lower bound.
BREAK_EVEN = {"cpu": 0.75}


def is_packing_faster(compatibility_BUV: Tensor) -> bool:
    """Whether so few pairs are open that computing open pairs alone is faster than computing all pairs."""
    open_fraction = int(torch.count_nonzero(compatibility_BUV)) / max(compatibility_BUV.numel(), 1)
    return open_fraction < BREAK_EVEN.get(compatibility_BUV.device.type, 0.25)


class PackedPairs:
    """The packed layout of `contracts.Pairs`: a pair with compatibility 0 has no row, so it costs nothing.

    W is shared by all functions, so that the rows of all functions are scaled and multiplied in one product. On the CPU, groups
    of equal size form a block, so that attention computes open pairs only; on other devices groups are padded to the size of the
    largest. P is read from the compatibilities, so the host waits for the device once per iteration.

    Args:
        compatibility_BUV: the compatibilities.
        multiplicity_V: how many equal elements each element stands for; None means one.
        pool_weight_BUV: the weights that results are pooled with; None means the compatibilities.
    """

    def __init__(
        self, compatibility_BUV: Tensor, multiplicity_V: Tensor | None = None, pool_weight_BUV: Tensor | None = None
    ) -> None:
        num_samples, self._num_functions, self._num_elements = compatibility_BUV.shape
        self._num_samples, self._num_groups = num_samples, num_samples * self._num_functions
        # In the order function, sample, element.
        c_X = compatibility_BUV.transpose(0, 1).reshape(-1)
        open_P = c_X.detach().nonzero().squeeze(1)
        group_P = open_P.div(self._num_elements, rounding_mode="floor")
        self._count_G = torch.bincount(group_P, minlength=self._num_groups)
        self._max_group_size = int(self._count_G.max()) if self._num_groups else 0
        order_P = torch.argsort(self._count_G[group_P], stable=True)
        open_P, self._group_P = open_P[order_P], group_P[order_P]
        self._element_P = open_P % self._num_elements
        self.function_P = self._group_P.div(num_samples, rounding_mode="floor")
        # The row of [B * V, ...] of each pair.
        self._source_P = open_P % (num_samples * self._num_elements)
        value_P = c_X.index_select(0, open_P)
        self.compatibility = self._pool_weight = value_P.unsqueeze(-1)
        if pool_weight_BUV is not None:
            self._pool_weight = pool_weight_BUV.transpose(0, 1).reshape(-1).index_select(0, open_P).unsqueeze(-1)
        # Used several times in each line of code, but not by the CPU kernels.
        self._cached_padded_row_P = None if use_cpu_kernels(value_P) else self._compute_padded_rows()
        self._bias_P = key_bias(value_P, None if multiplicity_V is None else multiplicity_V[self._element_P])

    def dispatch(self, x_BVD: Tensor) -> Tensor:
        return x_BVD.flatten(0, 1).index_select(0, self._source_P)

    def expand(self, value_UX: Tensor) -> Tensor:
        return value_UX.index_select(0, self.function_P)

    def modulated_linear(self, x_RD: Tensor, modulation: Modulation) -> Tensor:
        if use_cpu_kernels(x_RD, *(modulated_map.weight_ED for modulated_map in modulation.maps)):
            return scaled_product(x_RD, self.function_P, modulation.maps)
        x_RD = to_autocast_dtype(x_RD)
        products = [
            modlin(x_RD, self.expand(to_autocast_dtype(scale_UD)), weight_ED, bias_E)
            for weight_ED, scale_UD, bias_E in modulation.maps
        ]
        return torch.cat(products, dim=-1) if len(products) > 1 else products[0]

    def grouped_linear(self, x_RD: Tensor, weight_UED: Tensor) -> Tensor:
        out = x_RD.new_empty(0, weight_UED.shape[1])
        row_F = [(self.function_P == function).nonzero().squeeze(1) for function in range(self._num_functions)]
        product = torch.cat([out, *(x_RD[row] @ weight.T for row, weight in zip(row_F, weight_UED, strict=True))])
        return torch.empty_like(product).index_copy(0, torch.cat(row_F), product)

    def attention(self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None) -> Tensor:
        # Without any open pair, the plain expressions are used: positions take part there, and get a gradient of zero.
        if self._max_group_size and use_cpu_kernels(query_RHK, key_RHK, value_RHE, self._bias_P):
            return self._attend_in_blocks(query_RHK, key_RHK, value_RHE, position_UHVV)
        query, key, value = (self._pad_groups(rows).transpose(1, 2) for rows in (query_RHK, key_RHK, value_RHE))
        bias = self._pad_groups(self._bias_P, CLOSED_LOGIT)[:, None, None, :]
        position = None
        if position_UHVV is not None:
            function_G = torch.arange(self._num_groups, device=bias.device) // self._num_samples
            position = _select_positions(position_UHVV, function_G, self._pad_groups(self._element_P))
        attended = modulated_attention(query, key, value, bias, position).transpose(1, 2)  # [G, L, H, E]
        return attended.flatten(0, 1).index_select(0, self._padded_row_P)

    def to_dense(self, x_RD: Tensor) -> Tensor:
        shape = self._num_samples, self._num_functions, self._num_elements
        placed = x_RD.new_zeros(math.prod(shape), *x_RD.shape[1:])
        return placed.index_copy(0, self._dense_row_P, x_RD).unflatten(0, shape)

    def from_dense(self, x_BUVD: Tensor) -> Tensor:
        return x_BUVD.flatten(0, 2).index_select(0, self._dense_row_P)

    def combine(self, y_RD: Tensor) -> Tensor:
        """Returns sum_u c_ui y_ui, [B, V, D]; 0 for elements that no function takes."""
        shape = self._num_samples, self._num_elements
        pooled = y_RD.new_zeros(shape[0] * shape[1], y_RD.shape[-1])
        return pooled.index_add(0, self._source_P, self._pool_weight * y_RD).unflatten(0, shape)

    def _attend_in_blocks(
        self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None
    ) -> Tensor:
        """Computes attention block by block; each head of a group is a group of its own, so that one product covers all heads."""
        heads = query_RHK.shape[1]
        order_X, inverse_X = self._head_order(heads)
        query, key, value = (
            permute_rows(rows.flatten(0, 1), order_X, inverse_X) for rows in (query_RHK, key_RHK, value_RHE)
        )
        bias_X = permute_rows(self._bias_P.unsqueeze(1).expand(-1, heads).flatten(), order_X, inverse_X)
        blocks = [Block(block.groups * heads, block.size) for block in self._blocks]
        positions = [] if position_UHVV is None else self._block_positions(position_UHVV)
        attended_XE = block_attention(query, key, value, bias_X, blocks, positions)
        return permute_rows(attended_XE, inverse_X, order_X).unflatten(0, (-1, heads))

    @property
    def _dense_row_P(self) -> Tensor:
        """The row of [B * U * V, ...] of each pair."""
        sample_P = self._group_P % self._num_samples
        return (sample_P * self._num_functions + self.function_P) * self._num_elements + self._element_P

    @property
    def _blocks(self) -> list[Block]:
        """The blocks of groups of equal size, in the order of the rows; empty groups are omitted."""
        numbers = Counter(self._count_G.tolist())
        return [Block(numbers[size], size) for size in sorted(numbers) if size]

    def _head_order(self, heads: int) -> tuple[Tensor, Tensor]:
        """Returns the order of rows [P * H] by block, group, head and element, and the inverse of this permutation."""
        size_P, device = self._count_G[self._group_P], self._count_G.device
        start_P = self._start_G[self._group_P]
        # The place of the first head of each row.
        first_row_P = start_P * (heads - 1) + torch.arange(len(size_P), device=device)
        inverse_X = torch.addcmul(first_row_P[:, None], size_P[:, None], torch.arange(heads, device=device)).flatten()
        return torch.empty_like(inverse_X).index_copy(
            0, inverse_X, torch.arange(len(inverse_X), device=device)
        ), inverse_X

    @property
    def _start_G(self) -> Tensor:
        """The number of the first row of each group."""
        order_G = torch.argsort(self._count_G, stable=True)
        count_G = self._count_G[order_G]
        return torch.empty_like(count_G).index_copy(0, order_G, count_G.cumsum(0) - count_G)

    @property
    def _padded_row_P(self) -> Tensor:
        """The place of each row if all groups are padded to the size of the largest."""
        return self._compute_padded_rows() if self._cached_padded_row_P is None else self._cached_padded_row_P

    def _compute_padded_rows(self) -> Tensor:
        slot_P = torch.arange(len(self._group_P), device=self._count_G.device) - self._start_G[self._group_P]
        return self._group_P * self._max_group_size + slot_P

    def _pad_groups(self, rows: Tensor, padding: float = 0.0) -> Tensor:
        """Returns rows [P, ...] as [G, L, ...], with missing rows padded."""
        padded = rows.new_full((self._num_groups * self._max_group_size, *rows.shape[1:]), padding)
        return padded.index_copy(0, self._padded_row_P, rows).unflatten(0, (self._num_groups, self._max_group_size))

    def _block_positions(self, position_UHVV: Tensor) -> list[Tensor]:
        """Returns, for each block, the logits [groups * H, size, size] of its groups' elements."""
        sizes = [block.groups * block.size for block in self._blocks]
        parts = zip(self._blocks, self.function_P.split(sizes), self._element_P.split(sizes), strict=True)
        return [
            _select_positions(
                position_UHVV, function_P[:: block.size], element_P.unflatten(0, (-1, block.size))
            ).flatten(0, 1)
            for block, function_P, element_P in parts
        ]


def _select_positions(position_UHVV: Tensor, function_G: Tensor, element_GL: Tensor) -> Tensor:
    """Returns the logits [G, H, L, L] of each group's elements, for the group's function or shared by all functions."""
    if len(position_UHVV) == 1:
        function_G = torch.zeros_like(function_G)
    index = function_G[:, None, None], element_GL[:, :, None], element_GL[:, None, :]
    return position_UHVV.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
