"""For all tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread: the tensors are too small for more to help."""
    torch.set_num_threads(1)
