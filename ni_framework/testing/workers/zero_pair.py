"""Two processes that try components in training, one after the other; they start once, when the first one is tried."""

from __future__ import annotations

import atexit
import os
import sys
from functools import cache
from importlib.util import find_spec
from operator import attrgetter
from typing import NamedTuple

import attrs

from ni_framework.recipe import plain_values
from ni_framework.registry.file_plugins import files
from ni_framework.testing.failures import Excused
from ni_framework.testing.harness.case import Case
from ni_framework.testing.workers.pool import Failed, Processes

TIMEOUT = 120.0  # seconds for one component, which takes one or two


class Apart(Exception):
    """What two processes came to that could not train together, as a phrase that follows "the model"."""


class Difference(NamedTuple):
    """Where training with DeepSpeed first differed from training without it."""

    stage: int
    step: int
    what: str
    difference: float  # NaN where only one of them has it


def compared(case: Case) -> list[Difference]:
    """The first differences at each stage, empty where there are none.

    Raises `Excused` where it cannot be tried, and `Apart` where a process fails or does not end.
    """
    component = _place_of(case.cls)
    if reason := absent():
        raise Excused(reason)
    environment = {
        "path": [os.path.abspath(entry) for entry in sys.path],
        "plugins": os.environ.get("NI_PLUGINS"),
        "files": [str(path.absolute()) for path in files()],
    }
    options, sizes = plain_values(dict(case.options)), attrs.asdict(case.sizes)
    processes = _two()
    processes.timeout = TIMEOUT
    try:
        answers = processes.call(
            "ni_framework.testing.workers.zero_worker:compare", component, options, sizes, environment
        )
    except Failed as failed:
        said = [text for text in failed.said if text]
        raise Apart(said[0] if said else f"comes to no end in {TIMEOUT:g} s, or ends its process") from failed
    found = [Difference(**fault) for by_stage in zip(*answers, strict=True) for fault in by_stage if fault]
    return sorted(found, key=lambda fault: (fault.stage, fault.step))


def _place_of(cls: type) -> dict[str, str]:
    """Where another process finds a class; raises `Excused` for one that only this process has."""
    name, module = f"{cls.__module__}.{cls.__qualname__}", sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    try:
        there = attrgetter(cls.__qualname__)(module)
    except AttributeError:
        there = None
    if there is not cls or not file or cls.__module__ == "__main__":
        raise Excused(f"other processes cannot find it as {name}: define it at the top level of a module")
    return {"module": cls.__module__, "qualname": cls.__qualname__, "file": os.path.realpath(file)}


@cache
def _two() -> Processes:
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    processes = Processes(2, environment={"PYTHONPATH": path})
    atexit.register(processes.close)
    return processes


@cache
def absent() -> str | None:
    """Why nothing can be tried in two processes here; None if it can."""
    if find_spec("deepspeed") is None:
        return "deepspeed is not installed, with which two processes train: pip install deepspeed"
    try:
        _two().call("ni_framework.testing.workers.zero_worker:ready")
    except Failed as failed:
        reason = next(filter(None, failed.said), "they end, or do not answer")
        return f"two processes cannot train together here: {reason}"
    return None
