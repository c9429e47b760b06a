"""Small models use the CPU kernels of large models; `tests/model/test_layouts.py` compares them with plain expressions."""

from __future__ import annotations

import pytest

from ni_framework.nn.cpu import dispatch


@pytest.fixture(autouse=True)
def force_cpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LOOP_MIN_ELEMENTS", 0)
