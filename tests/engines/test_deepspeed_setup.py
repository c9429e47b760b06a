"""Errors while DeepSpeed is set up: more processes than GPUs, and a package that cannot be imported."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

import pytest

from ni_framework.distributed.communicator import Communicator
from ni_framework.engines.deepspeed.setup import import_deepspeed, local_device
from ni_framework.errors import RunError


def test_more_processes_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RunError) as caught:
        local_device(Communicator(2, 4))
    assert str(caught.value) == (
        "process 2 is number 2 on this machine, counted from 0, and there are 2 GPUs; "
        "start as many processes here as there are GPUs"
    )


@pytest.mark.parametrize("fault", [ImportError, RuntimeError, OSError, AttributeError])
def test_deepspeed_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, fault: type[Exception]) -> None:
    """The error is the same whatever exception a broken installation raises."""

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
