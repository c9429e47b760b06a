"""Open pairs only: rows are [P, ...], sorted by sample, then function, then element."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.nn.attention import CLOSED, key_bias, modulated_attention
from ni_framework.nn.modlin import Modulation, modlin


class PackedPairs:
    """The packed layout of `contracts.Pairs`: a pair with compatibility 0 has no row, so it costs nothing.

    Attention pads each (sample, function) group to the largest. P is read from the compatibilities, so the host waits
    for the device once per iteration.
    """

    def __init__(self, compatibility_BUV: Tensor, multiplicity_V: Tensor | None = None) -> None:
        num_samples, self._num_functions, num_elements = self._shape = compatibility_BUV.shape
        sample_P, self._function_P, element_P = compatibility_BUV.detach().nonzero(as_tuple=True)
        self._element_P = element_P
        self._source_P = sample_P * num_elements + element_P  # row of [B * V, ...]
        value_P = compatibility_BUV[sample_P, self._function_P, element_P]
        self.compatibility = value_P.unsqueeze(-1)
        self._bias_P = key_bias(value_P, None if multiplicity_V is None else multiplicity_V[element_P])
        # Places of the rows in groups G = (sample, function) of up to L rows each.
        group_P = sample_P * self._num_functions + self._function_P
        count_G = torch.bincount(group_P, minlength=num_samples * self._num_functions)
        start_G = count_G.cumsum(0) - count_G
        self._longest = int(count_G.max()) if len(group_P) else 0
        slot_P = torch.arange(len(group_P), device=group_P.device) - start_G[group_P]
        self._place_P = group_P * self._longest + slot_P
        self._num_groups = num_samples * self._num_functions

    def share(self, x_BVD: Tensor) -> Tensor:
        return x_BVD.flatten(0, 1).index_select(0, self._source_P)

    def spread(self, value_UX: Tensor) -> Tensor:
        return value_UX.index_select(0, self._function_P)

    def modulate(self, x_RD: Tensor, modulation: Modulation, bias_E: Tensor | None) -> Tensor:
        return modlin(x_RD, self.spread(modulation.scale_UD), modulation.weight_ED, bias_E)

    def multiply(self, x_RD: Tensor, weight_UED: Tensor) -> Tensor:
        out = x_RD.new_empty(0, weight_UED.shape[1])
        row_F = [(self._function_P == function).nonzero().squeeze(1) for function in range(self._num_functions)]
        product = torch.cat([out, *(x_RD[row] @ weight.T for row, weight in zip(row_F, weight_UED, strict=True))])
        return torch.empty_like(product).index_copy(0, torch.cat(row_F), product)

    def attend(self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None) -> Tensor:
        query, key, value = (self._groups(rows).transpose(1, 2) for rows in (query_RHK, key_RHK, value_RHE))
        bias = self._groups(self._bias_P, CLOSED)[:, None, None, :]
        position = None if position_UHVV is None else self._group_positions(position_UHVV)
        attended = modulated_attention(query, key, value, bias, position).transpose(1, 2)  # [G, L, H, E]
        return attended.flatten(0, 1).index_select(0, self._place_P)

    def pool(self, y_RD: Tensor) -> Tensor:
        """sum_u c_ui y_ui, [B, V, D]; elements without any function get 0."""
        num_samples, _, num_elements = self._shape
        pooled = y_RD.new_zeros(num_samples * num_elements, y_RD.shape[-1])
        return pooled.index_add(0, self._source_P, self.compatibility * y_RD).unflatten(0, (num_samples, num_elements))

    def _groups(self, rows: Tensor, padding: float = 0.0) -> Tensor:
        """Rows [P, ...] -> [G, L, ...], the missing ones padded."""
        padded = rows.new_full((self._num_groups * self._longest, *rows.shape[1:]), padding)
        return padded.index_copy(0, self._place_P, rows).unflatten(0, (self._num_groups, self._longest))

    def _group_positions(self, position_UHVV: Tensor) -> Tensor:
        """[G, H, L, L]: the logits of each group's own elements."""
        element_GL = self._groups(self._element_P)
        group_G = torch.arange(self._num_groups, device=element_GL.device)
        function_G = group_G % self._num_functions if position_UHVV.shape[0] > 1 else torch.zeros_like(group_G)
        chosen = position_UHVV.permute(0, 2, 3, 1)[
            function_G[:, None, None], element_GL[:, :, None], element_GL[:, None, :]
        ]
        return chosen.permute(0, 3, 1, 2)
