"""What is said before DeepSpeed is asked for what it cannot do."""

from __future__ import annotations

import pytest

from ni_framework.engine.team import Team
from ni_framework.engine.zero.build import device_of
from ni_framework.errors import RunError


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RunError) as caught:
        device_of(Team(2, 4))
    assert str(caught.value) == (
        "process 2 is number 2 on this machine, counted from 0, and there are 2 GPUs; "
        "start as many processes here as there are GPUs"
    )
