"""For all tests."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

from tests import scheduling

if os.environ.get("NI_GPU") != "1":  # tests compare bits, which a GPU does not repeat; those of tests/gpu ask for it
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


# A folder that cannot be: no test finds what another one has cached.
os.environ["NI_CACHE_DIR"] = os.path.join(os.devnull, "cache")


@pytest.fixture(autouse=True, scope="session")
def single_thread() -> None:
    """One thread: the tensors are too small for more to help."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def restore_ignored_signals() -> None:
    """By the processes that tests start, also where `nohup` or a shell's `&` has us ignore them: a handler ends with exec."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests, and puts those that one worker runs alone first, since they take longest.

    Whoever chooses tests by mark, as in `-m "not slow"`, replaces pyproject's `not soak`: so what is `soak` is `slow` too.
    """
    for item in items:
        if scheduling.is_distributed(item.nodeid):
            item.add_marker(pytest.mark.distributed)
        # These two conformance checks start processes of their own.
        if item.get_closest_marker("soak") or item.name.endswith(("[imports]", "[zero_parity]")):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not scheduling.is_distributed(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> scheduling.Scheduling:
    return scheduling.Scheduling(config, log)
