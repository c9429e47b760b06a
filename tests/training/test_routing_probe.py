"""The routing probe before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.contracts import hookimpl
from ni_framework.errors import RunError
from ni_framework.training.train import train
from tests.helpers.small_recipe import load_small_recipe


class ProbeWarningCollector:
    """A listener that collects the warnings of step 0."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        assert step == 0
        self.warnings.append(message)


def test_all_pairs_closed_ends_the_run(tmp_path: Path) -> None:
    """The error explains what to do."""
    with pytest.raises(RunError) as caught:
        train(load_small_recipe(tmp_path, "model.router.truncation=1.0e-6"), tmp_path / "run")
    assert str(caught.value) == (
        "every pair of function and element is closed at step 0: nothing would be computed and no gradient could open one; "
        "raise model.router.truncation (1.42 opens nearly all pairs, 1.0 half of them)"
    )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_sparse_routing_warns_and_healthy_routing_does_not(tmp_path: Path) -> None:
    """A truncation of 0.3 leaves nearly all elements without a function."""
    sparse, healthy = ProbeWarningCollector(), ProbeWarningCollector()
    train(
        load_small_recipe(tmp_path, "model.router.truncation=0.3", "train.steps=1"),
        tmp_path / "sparse",
        listeners=[sparse],
    )
    train(load_small_recipe(tmp_path, "train.steps=1"), tmp_path / "healthy", listeners=[healthy])
    assert any(
        "are taken by no function" in message and "raise model.router.truncation" in message
        for message in sparse.warnings
    )
    assert healthy.warnings == []
