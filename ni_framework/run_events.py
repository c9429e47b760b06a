"""Hooks of a run, which plugins may implement. Import these names from `ni_framework.contracts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pluggy
from torch import Tensor

PROJECT_NAME = "ni_framework"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


class RunEvents:
    """Hooks of a run, called in every plugin of the group `ni_framework.hooks`; implement those you need with `hookimpl`.

    Metrics are plain numbers by name ("train/loss"). A plugin must not change the model or draw from global generators.
    """

    @hookspec
    def run_start(self, run: str, recipe: Any, num_parameters: int) -> None:
        """Called before the first step; `run` is the run folder."""

    @hookspec
    def run_step(self, step: int, samples: int, values: Mapping[str, Tensor]) -> None:
        """Called after every step, with "loss", metrics and auxiliary losses. They are on their device; reading one waits."""

    @hookspec
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called every `train.log_every` steps."""

    @hookspec
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after an evaluation on held-out data."""

    @hookspec
    def run_warning(self, step: int, message: str) -> None:
        """Called when something looks wrong and the run continues."""

    @hookspec
    def run_checkpoint(self, step: int, checkpoint: str) -> None:
        """Called after a checkpoint has its final name."""

    @hookspec
    def run_end(self, summary: Mapping[str, Any]) -> None:
        """Called after the last step; `summary` is what `ni train --json` prints."""
