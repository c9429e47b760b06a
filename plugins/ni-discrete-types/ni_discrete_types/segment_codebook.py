"""A codebook whose entries follow the segments that they replace.

Letters in addition to the contract's: G segments ("heads") of a vector, L entries of the codebook, S width of a segment and an
entry, X any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.nn.random import rng_keys, uniform

# An entry with less use than this is idle and is moved; 1 is an even share.
_IDLE_SHARE = 0.02


class QuantisedSegments(NamedTuple):
    """Segments, the numbers of their entries, and the entries."""

    segment_XGS: Tensor
    index_XG: Tensor
    entry_XGS: Tensor

    @property
    def vector(self) -> Tensor:
        """The entries concatenated to a vector, [..., G S]; no gradient passes."""
        return self.entry_XGS.flatten(-2)

    @property
    def gap_X(self) -> Tensor:
        """1/G sum_g |s_g - e_g|^2, which a commitment loss reduces; only the segments receive its gradient."""
        return (self.segment_XGS - self.entry_XGS).square().sum(dim=-1).mean(dim=-1)


class SegmentCodebook(nn.Module):
    """L entries; each of the G segments of a vector is replaced by the nearest of them: [..., G S] -> [..., G S].

    Entries are moving averages of the segments that they replaced; this takes the place of the codebook loss of the paper. The
    averages are corrected for their start at 0, so that an entry is a mean of segments from the first step on. An idle entry is
    placed next to a busy one, at a distance equal to the deviation of the segments which the busy one replaces, so that the
    number of entries in use grows within a few steps. Source: Liu et al., "Discrete-valued neural communication", 2021;
    averages: van den Oord et al., "Neural discrete representation learning", 2017, appendix A.1; splitting: Linde, Buzo,
    Gray 1980.
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
        # Moving averages, in a unit in which an even share of use is 1, and the sum of their weights.
        self.register_buffer("use", torch.empty(entries))  # [L]
        self.register_buffer("total", torch.empty(entries, width))  # [L, S], the sum of segments
        self.register_buffer("spread", torch.empty(entries))  # [L], the sum of their squared distances from their mean
        self.register_buffer("seen", torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.entry, std=self.entry.shape[1] ** -0.5)
        for average in (self.use, self.total, self.spread, self.seen):
            nn.init.zeros_(average)

    def forward(self, vector: Tensor) -> QuantisedSegments:
        """Returns the entries nearest to the segments of a vector, by Euclidean distance."""
        entry_LS = self.entry
        segment_XGS = vector.unflatten(-1, (-1, entry_LS.shape[1])).to(
            torch.promote_types(vector.dtype, entry_LS.dtype)
        )
        with torch.no_grad(), disable_autocast(vector):
            # |s - e|^2 - |s|^2; the second term is the same for all entries.
            distance_XGL = entry_LS.square().sum(dim=-1) - 2 * (segment_XGS @ entry_LS.T)
            number_XG = distance_XGL.argmin(dim=-1)
        return QuantisedSegments(segment_XGS, number_XG, F.embedding(number_XG, entry_LS))

    def statistics(self, replaced: QuantisedSegments, weight_X: Tensor) -> dict[str, Tensor]:
        """Returns what each entry replaced.

        Args:
            replaced: The segments and their entries.
            weight_X: How much each vector counts; vectors with weight 0 may have any values, NaN included.

        Returns:
            Sums over segments: "use" [L] of the weights, "total" [L, S] of the weighted segments, and "gap" [L] of the weighted
            squared distances from the entry.
        """
        segment_XGS, number_XG, entry_XGS = (tensor.detach() for tensor in replaced)
        number_Y, weight_Y = number_XG.flatten(), weight_X.unsqueeze(-1).expand(number_XG.shape).flatten()
        segment_YS = torch.where(weight_Y.unsqueeze(-1) > 0, segment_XGS.flatten(0, -2), 0)
        gap_Y = torch.where(weight_Y > 0, (segment_XGS - entry_XGS).square().sum(dim=-1).flatten(), 0)
        zero_L = segment_YS.new_zeros(len(self.entry))
        return {
            "use": zero_L.index_add(0, number_Y, weight_Y),
            "total": torch.zeros_like(self.entry).index_add(0, number_Y, weight_Y.unsqueeze(-1) * segment_YS),
            "gap": zero_L.index_add(0, number_Y, weight_Y * gap_Y),
        }

    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        """Updates the entries with the statistics of one step; a step in which nothing was replaced changes nothing."""
        use_L, total_LS, gap_L = statistics["use"], statistics["total"], statistics["gap"]
        any_used = use_L.sum() > 0
        even = torch.where(any_used, use_L.mean(), 1)
        rate = ((1 - self.decay) * any_used).to(self.use.dtype)
        # The squared distances from the mean are those from the entry minus the squared distance of mean and entry.
        offset_LS = total_LS - use_L.unsqueeze(-1) * self.entry
        spread_L = gap_L - offset_LS.square().sum(dim=-1) / torch.where(use_L > 0, use_L, 1)
        for average, value in ((self.use, use_L), (self.total, total_LS), (self.spread, spread_L.clamp_min(0))):
            average.lerp_((value / even).to(average.dtype), rate)
        self.seen.lerp_(torch.ones_like(self.seen), rate)
        known_L1 = any_used & (self.use > 0).unsqueeze(-1)
        self.entry.copy_(torch.where(known_L1, self.total / self.use.unsqueeze(-1), self.entry))
        self._split(any_used)

    def _split(self, any_used: Tensor) -> None:
        """Places idle entries next to entries with more than an even share of use, each of which passes on half of its use."""
        share_L = self.use / self.seen.clamp_min(torch.finfo(self.seen.dtype).tiny)
        idle_L = share_L < _IDLE_SHARE
        rank_L = (idle_L.cumsum(0) - 1).clamp_min(0)
        busy_L = share_L.argsort(descending=True, stable=True)[rank_L]
        replaced_L = any_used & idle_L & (rank_L < (share_L > 1).sum())
        halved_L = torch.zeros_like(self.use).index_add(0, busy_L, replaced_L.to(self.use.dtype)) > 0
        width = self.entry.shape[1]
        # The standard deviation, along one direction, of the segments that the busy entry replaces.
        step_L = (self.spread[busy_L] / (self.use[busy_L] * width)).sqrt()
        neighbour_LS = self.entry[busy_L] + step_L.unsqueeze(-1) * _segment_directions(self.entry)
        self.entry.copy_(torch.where(replaced_L.unsqueeze(-1), neighbour_LS, self.entry))
        changed_L = replaced_L | halved_L
        for average in (self.use, self.spread):
            average.copy_(torch.where(replaced_L, average[busy_L], average))
            average.copy_(torch.where(changed_L, average / 2, average))
        self.total.copy_(torch.where(changed_L.unsqueeze(-1), self.use.unsqueeze(-1) * self.entry, self.total))


def disable_autocast(tensor: Tensor) -> torch.autocast:
    """Returns a context without autocast, because bf16 would round distances and counts."""
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


def _segment_directions(like_LS: Tensor) -> Tensor:
    """Returns a fixed unit vector for each entry, [L, S]."""
    num_entries, width = like_LS.shape
    draw_LS = uniform(rng_keys(0, torch.arange(num_entries, device=like_LS.device)), width)
    return F.normalize(draw_LS.to(like_LS.dtype) - 0.5, dim=-1)
