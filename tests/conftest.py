"""For all tests."""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("NI_GPU") != "1":  # tests compare bits, which a GPU does not repeat; those of tests/gpu ask for it
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread: the tensors are too small for more to help."""
    torch.set_num_threads(1)
