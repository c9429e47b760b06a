"""How far a run is, and which checkpoints it keeps."""

from __future__ import annotations

from attrs import Factory, define, frozen


@define
class Progress:
    """How far a run is."""

    # Steps done; the next one has this number, counted from 0.
    step: int = 0
    # Seconds spent in steps.
    seconds: float = 0.0
    # The last training metrics, and after the last step also those of the evaluation.
    metrics: dict[str, float] = Factory(dict)
    # Whether the model has been evaluated after the last step.
    evaluated: bool = False


@frozen
class CheckpointPolicy:
    """When checkpoints are written, and how many are kept."""

    # Steps between two checkpoints; None for one at the end only.
    every: int | None = None
    # How many of the newest checkpoints are kept; None for all.
    keep_last: int | None = None

    def is_due(self, step: int) -> bool:
        """Returns whether a checkpoint is due after this many steps."""
        return bool(self.every) and step % (self.every or 1) == 0
