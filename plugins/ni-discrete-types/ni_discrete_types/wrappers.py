"""The base of components that quantise the vectors of another component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ni_discrete_types.segment_codebook import SegmentCodebook
from ni_framework.contracts import Component, Output
from ni_framework.errors import OptionError
from ni_framework.options import config, option

# Prefixes of the names of statistics, because the inner component may be of the same class.
_INNER_STATISTICS, _CODEBOOK_STATISTICS = "inner.", "codebook."


@config
class CodebookOptions:
    """The options of every codebook."""

    heads: int = option(
        default=4, ge=1, help="number of segments of a vector, each of which is replaced by one entry, G"
    )
    entries: int = option(default=64, ge=2, help="number of entries in the codebook, shared by all segments, L")
    commitment: float = option(default=0.25, ge=0, help="weight of the loss that pulls segments to their entries")
    decay: float = option(
        default=0.9, ge=0, lt=1, help="decay of the moving averages per step; the larger, the slower entries follow"
    )


class CodebookWrapper(Component):
    """Base of components with a codebook around an `inner` one; adds its loss and statistics to those of the inner one."""

    # A component of the same kind.
    inner: Any

    def __init__(self, options: CodebookOptions, width: int, vectors: str, key: str) -> None:
        super().__init__()
        if width % options.heads:
            fits = ", ".join(str(number) for number in range(1, min(width, 1000) + 1) if width % number == 0)
            raise OptionError(
                "heads",
                f"{vectors} of width {width} cannot be cut into {options.heads} equal segments",
                f"{key} is {width}; choose one of its divisors: {fits}",
            )
        self.commitment = options.commitment
        self.codebook = SegmentCodebook(options.entries, width // options.heads, options.decay)

    def make_output(
        self,
        inner: Output,
        result: Tensor,
        loss: str,
        gap_BX: Tensor,
        weight_BX: Tensor,
        statistics: Mapping[str, Tensor],
    ) -> Output:
        """Returns the result with the losses and statistics of the inner component and, in training, of the codebook.

        The loss is the mean over samples of the weighted mean of the gaps within each sample, so it does not depend on the
        micro-batches. A sample whose weights are all 0 adds 0; without samples the loss is 0.

        Args:
            inner: The output of the inner component.
            result: The value to return.
            loss: The name of the loss.
            gap_BX: The squared distances of vectors to their entries.
            weight_BX: How much each vector counts in the loss.
            statistics: The statistics of the codebook.
        """
        losses = dict(inner.aux_losses)
        all_statistics = {f"{_INNER_STATISTICS}{name}": value for name, value in inner.statistics.items()}
        if self.training:
            weight_B = weight_BX.sum(dim=1)
            mean_B = (weight_BX * gap_BX).sum(dim=1) / torch.where(weight_B > 0, weight_B, 1)
            losses[loss] = losses.get(loss, 0) + self.commitment * mean_B.sum() / max(len(mean_B), 1)
            all_statistics |= {f"{_CODEBOOK_STATISTICS}{name}": value for name, value in statistics.items()}
        return Output(result, losses, all_statistics)

    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        if inner_statistics := _statistics_with_prefix(_INNER_STATISTICS, statistics):
            self.inner.update_buffers(inner_statistics)
        if codebook_statistics := _statistics_with_prefix(_CODEBOOK_STATISTICS, statistics):
            self.codebook.update_buffers(codebook_statistics)


def _statistics_with_prefix(prefix: str, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the statistics whose names begin with a prefix, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in statistics.items() if name.startswith(prefix)}
