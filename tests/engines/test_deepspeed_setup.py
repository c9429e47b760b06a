"""What is said before DeepSpeed is asked for what it cannot do."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

import pytest

from ni_framework.distributed.communicator import Team
from ni_framework.engines.deepspeed.sharded_build import device_of, import_deepspeed
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


@pytest.mark.parametrize("fault", [ImportError, RuntimeError, OSError, AttributeError])
def test_deepspeed_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, fault: type[Exception]) -> None:
    """Whatever it fails with: a broken one is told as an absent one is."""

    class Broken(MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
            if fullname == "deepspeed":
                raise fault("made for\nanother torch")

    for name in [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("sys.meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(RunError) as caught:
        import_deepspeed(sys.stderr)
    assert str(caught.value) == (
        f"engine.use: zero needs deepspeed, which cannot be imported ({fault.__name__}: made for another torch); "
        "pip install --upgrade deepspeed"
    )
