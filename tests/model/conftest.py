"""Small models take the way that large ones take on the CPU; `tests/model/test_layouts.py` compares it with the others."""

from __future__ import annotations

import pytest

from ni_framework.nn.cpu import dispatch


@pytest.fixture(autouse=True)
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LARGE", 0)
