"""Directions that learn where the vectors are that they stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.nn.kernel import unit
from ni_framework.nn.random import keys, uniform
from ni_framework.nn.straight_through import straight_through

_IDLE = 0.02  # of an even share of use, below which an entry is moved
_STEP = 0.1  # how far beside the busiest entry it is put


class Codebook(nn.Module):
    """Replaces unit vectors [..., T] by the nearest of K unit entries, with gradients as if it had not.

    Entries are moving averages of the vectors that they replaced; one that is hardly used moves beside the busiest.
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
        self.register_buffer("use", torch.empty(size))  # [K], moving average, 1 is an even share
        self.register_buffer(
            "total", torch.empty(size, width)
        )  # [K, T], moving sum of the vectors, in the same measure
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.entry)
        self.entry.copy_(unit(self.entry))
        nn.init.ones_(self.use)
        self.total.copy_(self.entry)

    def forward(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Entries in place of the vectors, [..., T], and the number of each, [...]."""
        number = (vector @ self.entry.T).argmax(dim=-1)
        return straight_through(F.embedding(number, self.entry), vector), number

    def statistics(self, vector: Tensor, number: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """How often each entry was used, [K], and the sum of what it replaced, [K, T]; each vector counts `weight` [...]."""
        share_NK = F.one_hot(number.flatten(), len(self.entry)).to(vector.dtype) * weight.flatten().unsqueeze(-1)
        return {"use": share_NK.sum(dim=0), "total": share_NK.T @ vector.flatten(0, -2)}

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        """Moves the entries by one step's statistics."""
        use_K, total_KT = statistics["use"], statistics["total"]
        even = use_K.sum().clamp_min(1) / len(use_K)
        self.use.lerp_((use_K / even).to(self.use.dtype), 1 - self.decay)
        self.total.lerp_((total_KT / even).to(self.total.dtype), 1 - self.decay)
        self.entry.copy_(unit(self.total))
        self._split()

    def _split(self) -> None:
        """Puts every idle entry beside a busy one, which gives it half of its use; nothing hangs on the number of idle ones."""
        idle_K = self.use < _IDLE
        rank_K = (idle_K.cumsum(0) - 1).clamp_min(0)
        busy_K = self.use.argsort(descending=True, stable=True)[rank_K]
        beside_KT = self.entry[busy_K] + _STEP * _directions(self.entry)
        use_K = torch.where(idle_K, self.use[busy_K], self.use)
        halves_K = (torch.zeros_like(self.use).index_add(0, busy_K, idle_K.to(self.use.dtype)) > 0) | idle_K
        self.use.copy_(torch.where(halves_K, use_K / 2, use_K))
        self.entry.copy_(torch.where(idle_K.unsqueeze(-1), unit(beside_KT), self.entry))
        changed_K1 = halves_K.unsqueeze(-1)
        self.total.copy_(torch.where(changed_K1, self.use.unsqueeze(-1) * self.entry, self.total))


def _directions(like_KT: Tensor) -> Tensor:
    """A fixed direction for each entry, of length one."""
    size, width = like_KT.shape
    draw_KT = uniform(keys(0, torch.arange(size, device=like_KT.device)), width)
    return unit(draw_KT.to(like_KT.dtype) - 0.5)
