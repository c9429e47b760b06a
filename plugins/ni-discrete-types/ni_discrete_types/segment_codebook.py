"""A codebook that learns where the segments are that it replaces.

Letters beside the contract's: G segments ("heads") of a vector, L entries of the codebook, S width of a segment and an entry,
X any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.nn.random import keys, uniform

_IDLE = 0.02  # of an even share of use, below which an entry is moved


class Replaced(NamedTuple):
    """Segments, the numbers of their entries, and these entries."""

    segment_XGS: Tensor
    number_XG: Tensor
    entry_XGS: Tensor

    @property
    def vector(self) -> Tensor:
        """The entries side by side, [..., G S]; no gradient passes."""
        return self.entry_XGS.flatten(-2)

    @property
    def gap_X(self) -> Tensor:
        """1/G sum_g |s_g - e_g|^2, what a commitment loss makes small; its gradient moves the segments alone."""
        return (self.segment_XGS - self.entry_XGS).square().sum(dim=-1).mean(dim=-1)


class Codebook(nn.Module):
    """L entries; each of the G segments of a vector becomes the nearest of them: [..., G S] -> [..., G S].

    Entries are moving averages of what they replaced, in place of the paper's codebook loss. The averages begin with the
    first step and weigh all steps alike until 1 / (1 - decay) of them are over. An idle entry moves beside a busy one, by as
    much as what that replaces deviates from it, so that few entries at the start become many within steps. Source: Liu et al.,
    "Discrete-valued neural communication", 2021; averages: van den Oord et al., "Neural discrete representation learning",
    2017, appendix A.1; splitting: Linde, Buzo, Gray 1980.
    """

    entry: Tensor
    use: Tensor
    total: Tensor
    spread: Tensor
    seen: Tensor

    def __init__(self, entries: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("entry", torch.empty(entries, width))  # [L, S]
        # Moving averages, in the measure in which an even share of use is 1, and sum of their weights.
        self.register_buffer("use", torch.empty(entries))  # [L]
        self.register_buffer("total", torch.empty(entries, width))  # [L, S], sum of segments
        self.register_buffer("spread", torch.empty(entries))  # [L], sum of their squared distances from their mean
        self.register_buffer("seen", torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.entry, std=self.entry.shape[1] ** -0.5)
        for average in (self.use, self.total, self.spread, self.seen):
            nn.init.zeros_(average)

    def forward(self, vector: Tensor) -> Replaced:
        """The nearest entries of a vector's segments, by Euclidean distance."""
        entry_LS = self.entry
        segment_XGS = vector.unflatten(-1, (-1, entry_LS.shape[1])).to(
            torch.promote_types(vector.dtype, entry_LS.dtype)
        )
        with torch.no_grad(), in_full_precision(vector):
            # |s - e|^2 less |s|^2, which is the same for all entries
            distance_XGL = entry_LS.square().sum(dim=-1) - 2 * (segment_XGS @ entry_LS.T)
            number_XG = distance_XGL.argmin(dim=-1)
        return Replaced(segment_XGS, number_XG, F.embedding(number_XG, entry_LS))

    def statistics(self, replaced: Replaced, weight_X: Tensor) -> dict[str, Tensor]:
        """What each entry replaced: weights [L], sums [L, S] and squared distances [L]. What weighs 0 may be anything."""
        segment_XGS, number_XG, entry_XGS = (of.detach() for of in replaced)
        number_Y, weight_Y = number_XG.flatten(), weight_X.unsqueeze(-1).expand(number_XG.shape).flatten()
        segment_YS = torch.where(weight_Y.unsqueeze(-1) > 0, segment_XGS.flatten(0, -2), 0)
        gap_Y = torch.where(weight_Y > 0, (segment_XGS - entry_XGS).square().sum(dim=-1).flatten(), 0)
        none_L = segment_YS.new_zeros(len(self.entry))
        return {
            "use": none_L.index_add(0, number_Y, weight_Y),
            "total": torch.zeros_like(self.entry).index_add(0, number_Y, weight_Y.unsqueeze(-1) * segment_YS),
            "gap": none_L.index_add(0, number_Y, weight_Y * gap_Y),
        }

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        """Moves the entries by one step's statistics; a step in which nothing was replaced moves none."""
        use_L, total_LS, gap_L = statistics["use"], statistics["total"], statistics["gap"]
        told = use_L.sum() > 0
        even = torch.where(told, use_L.mean(), 1)
        rate = ((1 - self.decay) * told).to(self.use.dtype)
        # About their mean, segments deviate less than from the entry, by the distance of the two.
        off_LS = total_LS - use_L.unsqueeze(-1) * self.entry
        spread_L = gap_L - off_LS.square().sum(dim=-1) / torch.where(use_L > 0, use_L, 1)
        for average, value in ((self.use, use_L), (self.total, total_LS), (self.spread, spread_L.clamp_min(0))):
            average.lerp_((value / even).to(average.dtype), rate)
        self.seen.lerp_(torch.ones_like(self.seen), rate)
        known_L1 = told & (self.use > 0).unsqueeze(-1)
        self.entry.copy_(torch.where(known_L1, self.total / self.use.unsqueeze(-1), self.entry))
        self._split(told)

    def _split(self, told: Tensor) -> None:
        """Puts idle entries beside those that are used more than evenly, each of which gives one of them half of its use."""
        share_L = self.use / self.seen.clamp_min(torch.finfo(self.seen.dtype).tiny)
        idle_L = share_L < _IDLE
        rank_L = (idle_L.cumsum(0) - 1).clamp_min(0)
        busy_L = share_L.argsort(descending=True, stable=True)[rank_L]
        moved_L = told & idle_L & (rank_L < (share_L > 1).sum())
        halved_L = torch.zeros_like(self.use).index_add(0, busy_L, moved_L.to(self.use.dtype)) > 0
        width = self.entry.shape[1]
        # the deviation along one direction of what the busy entry replaces
        step_L = (self.spread[busy_L] / (self.use[busy_L] * width)).sqrt()
        beside_LS = self.entry[busy_L] + step_L.unsqueeze(-1) * _directions(self.entry)
        self.entry.copy_(torch.where(moved_L.unsqueeze(-1), beside_LS, self.entry))
        changed_L = moved_L | halved_L
        for average in (self.use, self.spread):
            average.copy_(torch.where(moved_L, average[busy_L], average))
            average.copy_(torch.where(changed_L, average / 2, average))
        self.total.copy_(torch.where(changed_L.unsqueeze(-1), self.use.unsqueeze(-1) * self.entry, self.total))


def in_full_precision(tensor: Tensor) -> torch.autocast:
    """No autocast: which entry is nearest must not hang on a rounding, and a count is no number for bf16."""
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


def _directions(like_LS: Tensor) -> Tensor:
    """A fixed direction for each entry, of length one."""
    num_entries, width = like_LS.shape
    draw_LS = uniform(keys(0, torch.arange(num_entries, device=like_LS.device)), width)
    return F.normalize(draw_LS.to(like_LS.dtype) - 0.5, dim=-1)
