"""Data workers: they give the same batches in the same order, and their errors are reported unchanged."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Batch
from ni_framework.data.loader import iter_training_batches
from ni_framework.data.sampler import EpochSampler
from ni_framework.errors import RunError


class FaultySplit:
    """Ten numbered samples; reading number 7 may call a function that fails."""

    def __init__(self, fault: Any = None) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 10

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        if 7 in index_B and self.fault is not None:
            self.fault()
        assert key_B is not None
        return Batch(index_B.float(), {"digits": key_B}, key=None)


def load_all(workers: int, start: int = 0) -> list[list[int]]:
    """Returns for each batch its samples, their random keys, and the model's random keys."""
    sampler = EpochSampler(FaultySplit(), 4, seed=5)
    loaded = []
    for batch in iter_training_batches(sampler, start, 9, workers):
        assert batch.key is not None
        loaded.append([*batch.inputs.int().tolist(), *batch.targets["digits"].tolist(), *batch.key.tolist()])
    return loaded


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_workers_do_not_change_batches(workers: int, start: int) -> None:
    """Neither does the first step; torch's global generator is not used."""
    before = torch.get_rng_state()
    assert load_all(workers, start) == load_all(0)[start:]
    assert torch.equal(torch.get_rng_state(), before)


def raise_error() -> None:
    raise RunError("photos/7.png: cannot be read")


def kill_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_error_is_reported_unchanged(workers: int) -> None:
    """The message does not contain the worker's traceback."""
    with pytest.raises(RunError) as caught:
        list(iter_training_batches(EpochSampler(FaultySplit(raise_error), 4, seed=5), 0, 9, workers))
    assert str(caught.value) == "photos/7.png: cannot be read"


def raise_unexpected_error() -> None:
    raise RuntimeError("unexpected error in the data set")


def test_unexpected_error_is_not_reported_as_a_dead_worker() -> None:
    with pytest.raises(RuntimeError, match="unexpected error in the data set"):
        list(iter_training_batches(EpochSampler(FaultySplit(raise_unexpected_error), 4, seed=5), 0, 9, 2))


def test_dead_worker_is_reported() -> None:
    with pytest.raises(RunError) as caught:
        list(iter_training_batches(EpochSampler(FaultySplit(kill_worker), 4, seed=5), 0, 9, 2))
    assert str(caught.value) == ("a data worker process died (perhaps out of memory); lower train.workers, 0 uses none")


def test_workers_are_always_stopped() -> None:
    """After the last batch, after an error whose traceback is still referenced, and when the generator is closed."""
    list(iter_training_batches(EpochSampler(FaultySplit(), 4, seed=5), 0, 3, 2))
    with pytest.raises(RunError) as caught:
        list(iter_training_batches(EpochSampler(FaultySplit(raise_error), 4, seed=5), 0, 9, 2))
    prepared = iter_training_batches(EpochSampler(FaultySplit(), 4, seed=5), 0, 9, 2)
    next(prepared)
    assert len(multiprocessing.active_children()) == 2
    prepared.close()
    assert multiprocessing.active_children() == []
    assert caught.value.__traceback__ is not None
