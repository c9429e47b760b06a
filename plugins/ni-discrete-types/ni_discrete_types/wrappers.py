"""What the components that discretise another one's vectors have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ni_discrete_types.segment_codebook import Codebook
from ni_framework.contracts import Answer, Component
from ni_framework.errors import OptionError
from ni_framework.options import config, option

_INNER, _OWN = "inner.", "codebook."  # before the names of statistics: the inner component may be of the same kind


@config
class CodebookOptions:
    """What every codebook has."""

    heads: int = option(default=4, ge=1, help="segments of a vector, each of which becomes one entry, G")
    entries: int = option(default=64, ge=2, help="number of entries in the codebook, shared by all segments, L")
    commitment: float = option(default=0.25, ge=0, help="weight of the loss that draws segments to their entries")
    decay: float = option(default=0.9, ge=0, lt=1, help="how slowly entries follow what they replace, per step")


class AroundCodebook(Component):
    """Base of components with a codebook around an `inner` one: passes on what that tells, and adds its own."""

    inner: Any  # of the same kind

    def __init__(self, options: CodebookOptions, width: int, vectors: str, key: str) -> None:
        super().__init__()
        if width % options.heads:
            fits = ", ".join(str(number) for number in range(1, min(width, 1000) + 1) if width % number == 0)
            raise OptionError(
                "heads",
                f"{vectors} of width {width} cannot be cut into {options.heads} equal segments",
                f"{key} is {width}, which these divide: {fits}",
            )
        self.commitment = options.commitment
        self.codebook = Codebook(options.entries, width // options.heads, options.decay)

    def told(
        self,
        inner: Answer,
        result: Tensor,
        loss: str,
        gap_BX: Tensor,
        weight_BX: Tensor,
        statistics: Mapping[str, Tensor],
    ) -> Answer:
        """The result with the inner answer's losses and statistics and, in training, one's own.

        The loss is the mean over samples of each sample's weighted mean of the gaps, which is the same however a batch is
        divided; a sample in which nothing counts adds 0, and no samples are 0.
        """
        losses, passed = dict(inner.losses), {f"{_INNER}{name}": value for name, value in inner.statistics.items()}
        if self.training:
            weight_B = weight_BX.sum(dim=1)
            mean_B = (weight_BX * gap_BX).sum(dim=1) / torch.where(weight_B > 0, weight_B, 1)
            losses[loss] = losses.get(loss, 0) + self.commitment * mean_B.sum() / max(len(mean_B), 1)
            passed |= {f"{_OWN}{name}": value for name, value in statistics.items()}
        return Answer(result, losses, passed)

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        if inner := _under(_INNER, statistics):
            self.inner.absorb(inner)
        if own := _under(_OWN, statistics):
            self.codebook.absorb(own)


def _under(prefix: str, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The statistics whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in statistics.items() if name.startswith(prefix)}
