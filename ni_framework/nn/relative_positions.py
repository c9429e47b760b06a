"""Two-dimensional relative positions: what the offset between two patches adds to their attention logit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Mixing = Literal["shared", "dot", "sep_sum", "seq_sum"]


class RelativePositions(nn.Module):
    """Logits [U, H, V, V] (or [1, H, V, V] when `shared`) for patches on a grid; elements before the patches get 0.

    Each axis has one table of vectors, indexed by the difference of two patches along the axis. Each head has a vector of its
    own, and each function is represented by a map F of its code. Per axis, with E a row of the table and P_h a head's vector:

        shared   E . P_h
        dot      sum_p E_p P_hp (F code_u)_p
        seq_sum  (E + F code_u) . P_h
        sep_sum  E . P_h + (F code_u)_h

    Source: the author's code (the paper names relative positions, but gives no equation).
    """

    def __init__(self, grid: tuple[int, int], heads: int, width: int, code: int, mixing: Mixing) -> None:
        super().__init__()
        self.grid = grid
        self.mixing: Mixing = mixing
        # Along a row, indexed by the difference of columns.
        self.table_row = nn.Parameter(torch.empty(2 * grid[1] - 1, width))
        self.table_column = nn.Parameter(torch.empty(2 * grid[0] - 1, width))
        self.head_row = nn.Parameter(torch.empty(heads, width))
        self.head_column = nn.Parameter(torch.empty(heads, width))
        if mixing != "shared":
            out = heads if mixing == "sep_sum" else width
            self.code_row = nn.Parameter(torch.empty(out, code))
            self.code_column = nn.Parameter(torch.empty(out, code))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets values with small logits: before training, no patch is preferred because of its place."""
        for table in (self.table_row, self.table_column):
            nn.init.normal_(table, std=0.02)
        for parameter in (self.head_row, self.head_column):
            nn.init.normal_(parameter)
        if self.mixing != "shared":
            for parameter in (self.code_row, self.code_column):
                nn.init.normal_(parameter, std=0.02)

    def forward(self, code_UC: Tensor, num_elements: int) -> Tensor:
        """Returns the logits for `num_elements` elements, of which the last ones are the patches, row by row."""
        code_row, code_column = (self.code_row, self.code_column) if self.mixing != "shared" else (None, None)
        row_UHS = axis_logits(self.table_row, self.head_row, code_row, code_UC, self.mixing)
        column_UHS = axis_logits(self.table_column, self.head_column, code_column, code_UC, self.mixing)
        return expand_axis_logits(row_UHS, column_UHS, self.grid, num_elements)


def expand_axis_logits(row_UHS: Tensor, column_UHS: Tensor, grid: tuple[int, int], num_elements: int) -> Tensor:
    """Returns one logit for each pair of elements, [U, H, V, V].

    Args:
        row_UHS: one logit for each difference S of columns along a row.
        column_UHS: one logit for each difference S of rows along a column.
        grid: the numbers of rows and columns.
        num_elements: V; the patches are the last elements.
    """
    rows, columns = grid
    # The differences from patch (i, j) to patch (k, l) are k - i and l - j.
    row_UHCC = row_UHS[..., _index_differences(columns, row_UHS.device)]
    column_UHRR = column_UHS[..., _index_differences(rows, row_UHS.device)]
    logits_UHRCRC = column_UHRR[..., :, None, :, None] + row_UHCC[..., None, :, None, :]
    lead = num_elements - rows * columns
    return F.pad(logits_UHRCRC.flatten(-2).flatten(-3, -2), (lead, 0, lead, 0))


def _index_differences(size: int, device: torch.device) -> Tensor:
    index = torch.arange(size, device=device)
    return index[None, :] - index[:, None] + size - 1


def axis_logits(table_SP: Tensor, head_HP: Tensor, code_map: Tensor | None, code_UC: Tensor, mixing: Mixing) -> Tensor:
    """Returns logits [U, H, S] of every difference S along one axis; `RelativePositions` has the equations.

    Args:
        table_SP: the table of the axis.
        head_HP: one vector for each head.
        code_map: the matrix F [P or H, C]; None if functions share the logits.
        code_UC: the codes.
        mixing: how table, heads and functions are combined.
    """
    shared_HS = head_HP @ table_SP.T
    if code_map is None:
        return shared_HS.unsqueeze(0)
    code_UX = code_UC @ code_map.T
    if mixing == "dot":
        return torch.einsum("sp,hp,up->uhs", table_SP, head_HP, code_UX)
    if mixing == "seq_sum":
        return shared_HS + (code_UX @ head_HP.T).unsqueeze(-1)
    return shared_HS + code_UX.unsqueeze(-1)
