"""Batches that other processes prepare: the same, in the same order, and their errors are told as they are."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.contracts import Batch
from ni_framework.data.loader import batches
from ni_framework.data.sampler import Order
from ni_framework.errors import RunError


class Numbers:
    """Ten samples, numbered; one of them may misbehave."""

    def __init__(self, bad: Any = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        if 7 in index_B and self.bad is not None:
            self.bad()
        assert key_B is not None
        return Batch(index_B.float(), {"digits": key_B}, key=None)


def contents(workers: int, start: int = 0) -> list[list[int]]:
    """Samples, their keys, and the model's."""
    order = Order(Numbers(), 4, seed=5)
    found = []
    for batch in batches(order, start, 9, workers):
        assert batch.key is not None
        found.append([*batch.inputs.int().tolist(), *batch.targets["digits"].tolist(), *batch.key.tolist()])
    return found


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_workers_do_not_matter(workers: int, start: int) -> None:
    """Nor does where a run begins; torch's global generator is left alone."""
    before = torch.get_rng_state()
    assert contents(workers, start) == contents(0)[start:]
    assert torch.equal(torch.get_rng_state(), before)


def refuse() -> None:
    raise RunError("photos/7.png: cannot be read")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_told_as_it_is(workers: int) -> None:
    """Without the worker's traceback in it."""
    with pytest.raises(RunError) as caught:
        list(batches(Order(Numbers(refuse), 4, seed=5), 0, 9, workers))
    assert str(caught.value) == "photos/7.png: cannot be read"


def fail() -> None:
    raise RuntimeError("of the data set's own")


def test_a_fault_of_the_data_set_is_no_death() -> None:
    """It is told as what it is."""
    with pytest.raises(RuntimeError, match="of the data set's own"):
        list(batches(Order(Numbers(fail), 4, seed=5), 0, 9, 2))


def test_a_worker_that_dies() -> None:
    """Is no mystery."""
    with pytest.raises(RunError) as caught:
        list(batches(Order(Numbers(die), 4, seed=5), 0, 9, 2))
    assert str(caught.value) == (
        "a process that prepares batches has died (out of memory, perhaps); lower train.workers, 0 uses none"
    )


def test_no_worker_is_left() -> None:
    """Not after the last batch, not after an error whose traceback lives on, and not where somebody stops in between."""
    list(batches(Order(Numbers(), 4, seed=5), 0, 3, 2))
    with pytest.raises(RunError) as caught:
        list(batches(Order(Numbers(refuse), 4, seed=5), 0, 9, 2))
    prepared = batches(Order(Numbers(), 4, seed=5), 0, 9, 2)
    next(prepared)
    assert len(multiprocessing.active_children()) == 2
    prepared.close()
    assert multiprocessing.active_children() == []
    assert caught.value.__traceback__ is not None
