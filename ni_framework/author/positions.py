"""The author's relative positions; tensors have the author's names."""

from __future__ import annotations

from torch import Tensor, nn

from ni_framework.author.kwargs import PositionsKwargs
from ni_framework.nn.relative_positions import Mixing, axis_logits, expand_axis_logits


class AuthorRelativePositions(nn.Module):
    """Logits [U, H, V, V], or [1, H, V, V] when shared, for patches on a square grid; CLS elements get 0.

    The equations are in `nn.relative_positions`. Source: the author's `RelativePositionalEncoder`.
    """

    def __init__(self, positions: PositionsKwargs, grid: int, heads: int, key: int, code: int) -> None:
        super().__init__()
        self.grid = grid
        shared = positions.share_positional_encoding_between_functions
        self.mixing: Mixing = "shared" if shared else positions.function_head_mixing_mode
        self.row_embeddings = nn.Embedding(2 * grid - 1, key)
        self.col_embeddings = nn.Embedding(2 * grid - 1, key)
        self.head_keys_row = nn.Linear(key, heads, bias=False)
        self.head_keys_col = nn.Linear(key, heads, bias=False)
        out = heads if self.mixing == "sep_sum" else key
        self.function_keys_row = None if shared else nn.Linear(code, out, bias=False)
        self.function_keys_col = None if shared else nn.Linear(code, out, bias=False)

    def forward(self, code_UC: Tensor, num_elements: int) -> Tensor:
        row_UHS, column_UHS = (
            axis_logits(table.weight, heads.weight, None if codes is None else codes.weight, code_UC, self.mixing)
            for table, heads, codes in (
                (self.row_embeddings, self.head_keys_row, self.function_keys_row),
                (self.col_embeddings, self.head_keys_col, self.function_keys_col),
            )
        )
        return expand_axis_logits(row_UHS, column_UHS, (self.grid, self.grid), num_elements)
