"""For all tests."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from xdist.scheduler import Scheduling

from tests import scheduling

if os.environ.get("NI_GPU") != "1":  # tests compare bits, which a GPU does not repeat; those of tests/gpu ask for it
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread: the tensors are too small for more to help."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def signals_are_heard() -> None:
    """By the processes that tests start, also where `nohup` or a shell's `&` has us ignore them: a handler ends with exec."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one worker does alone comes first, since it takes longest."""
    items.sort(key=lambda item: not scheduling.alone(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return scheduling.Scheduling(config, log)
