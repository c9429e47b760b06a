"""A codebook of directions that follow the vectors which they replace."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.nn.kernel import to_unit_length
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.nn.straight_through import straight_through

# An entry with less use than this is idle and is moved; 1 is an even share.
_IDLE_USE = 0.02
# The distance from the busy entry at which an idle entry is placed.
_SPLIT_DISTANCE = 0.1


class UnitCodebook(nn.Module):
    """Replaces unit vectors [..., T] by the nearest of K unit entries; gradients pass as if nothing was replaced.

    Entries are moving averages of the vectors that they replaced; an idle entry is placed next to a busy one.
    Source: van den Oord et al., "Neural discrete representation learning", 2017, appendix A.1; splitting: Linde, Buzo, Gray 1980.
    The author's `VectorQuantizer` never learns.
    """

    entry: Tensor
    use: Tensor
    total: Tensor

    def __init__(self, size: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("entry", torch.empty(size, width))  # [K, T]
        # Moving averages of the number of replaced vectors, where 1 is an even share, and of their sum in the same unit.
        self.register_buffer("use", torch.empty(size))  # [K]
        self.register_buffer("total", torch.empty(size, width))  # [K, T]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.entry)
        self.entry.copy_(to_unit_length(self.entry))
        nn.init.ones_(self.use)
        self.total.copy_(self.entry)

    def forward(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the entries that replace the vectors, [..., T], and their numbers, [...]."""
        number = (vector @ self.entry.T).argmax(dim=-1)
        return straight_through(F.embedding(number, self.entry), vector), number

    def statistics(self, vector: Tensor, number: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Returns how often each entry was used and the sum of the vectors that it replaced.

        Args:
            vector: The replaced vectors, [..., T].
            number: The numbers of their entries, [...].
            weight: How much each vector counts, [...].

        Returns:
            "use" [K] and "total" [K, T].
        """
        share_NK = F.one_hot(number.flatten(), len(self.entry)).to(vector.dtype) * weight.flatten().unsqueeze(-1)
        return {"use": share_NK.sum(dim=0), "total": share_NK.T @ vector.flatten(0, -2)}

    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        """Updates the entries with the statistics of one step."""
        use_K, total_KT = statistics["use"], statistics["total"]
        even = use_K.sum().clamp_min(1) / len(use_K)
        self.use.lerp_((use_K / even).to(self.use.dtype), 1 - self.decay)
        self.total.lerp_((total_KT / even).to(self.total.dtype), 1 - self.decay)
        self.entry.copy_(to_unit_length(self.total))
        self._split()

    def _split(self) -> None:
        """Places every idle entry next to a busy one and halves the use of the busy one; the shapes do not depend on values."""
        idle_K = self.use < _IDLE_USE
        rank_K = (idle_K.cumsum(0) - 1).clamp_min(0)
        busy_K = self.use.argsort(descending=True, stable=True)[rank_K]
        beside_KT = self.entry[busy_K] + _SPLIT_DISTANCE * _fixed_directions(self.entry)
        use_K = torch.where(idle_K, self.use[busy_K], self.use)
        halves_K = (torch.zeros_like(self.use).index_add(0, busy_K, idle_K.to(self.use.dtype)) > 0) | idle_K
        self.use.copy_(torch.where(halves_K, use_K / 2, use_K))
        self.entry.copy_(torch.where(idle_K.unsqueeze(-1), to_unit_length(beside_KT), self.entry))
        changed_K1 = halves_K.unsqueeze(-1)
        self.total.copy_(torch.where(changed_K1, self.use.unsqueeze(-1) * self.entry, self.total))


def _fixed_directions(like_KT: Tensor) -> Tensor:
    """Returns a fixed unit vector for each entry, [K, T]."""
    size, width = like_KT.shape
    draw_KT = uniform(rng_keys(0, torch.arange(size, device=like_KT.device)), width)
    return to_unit_length(draw_KT.to(like_KT.dtype) - 0.5)
