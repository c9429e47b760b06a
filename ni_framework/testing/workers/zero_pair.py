"""Trains components in two processes, which start with the first component and are used for all others."""

from __future__ import annotations

import atexit
import os
import sys
from functools import cache
from importlib.util import find_spec
from operator import attrgetter
from typing import NamedTuple

import attrs

from ni_framework.recipe import to_plain_values
from ni_framework.registry.file_plugins import plugin_files
from ni_framework.testing.failures import NotApplicable
from ni_framework.testing.harness.case import Case
from ni_framework.testing.workers.pool import WorkerCallFailed, WorkerPool

# Seconds for one component; normally it takes one or two.
PARITY_TIMEOUT = 120.0


class PairFailure(Exception):
    """Two processes could not train a model together. The message is a phrase that follows "the model"."""


class ZeroDifference(NamedTuple):
    """The first difference between training with and without DeepSpeed. `difference` is NaN if only one has the value."""

    stage: int
    step: int
    what: str
    difference: float


def find_zero_differences(case: Case) -> list[ZeroDifference]:
    """Returns the first difference at each ZeRO stage; empty if there is no difference.

    Raises `NotApplicable` if the component cannot be trained in other processes, and `PairFailure` if a process fails.
    """
    component = _locate_class(case.cls)
    if reason := unavailable_reason():
        raise NotApplicable(reason)
    environment = {
        "path": [os.path.abspath(entry) for entry in sys.path],
        "plugins": os.environ.get("NI_PLUGINS"),
        "files": [str(path.absolute()) for path in plugin_files()],
    }
    options, sizes = to_plain_values(dict(case.options)), attrs.asdict(case.sizes)
    workers = _get_worker_pair()
    workers.timeout = PARITY_TIMEOUT
    try:
        responses = workers.call(
            "ni_framework.testing.workers.zero_worker:compare_zero_with_local", component, options, sizes, environment
        )
    except WorkerCallFailed as failed:
        messages = [text for text in failed.messages if text]
        raise PairFailure(
            messages[0] if messages else f"does not finish within {PARITY_TIMEOUT:g} s, or ends its process"
        ) from failed
    differences = [
        ZeroDifference(**difference)
        for differences_by_rank in zip(*responses, strict=True)
        for difference in differences_by_rank
        if difference
    ]
    return sorted(differences, key=lambda difference: (difference.stage, difference.step))


def _locate_class(cls: type) -> dict[str, str]:
    """Returns where another process finds a class. Raises `NotApplicable` for a class that only this process has."""
    name, module = f"{cls.__module__}.{cls.__qualname__}", sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    try:
        resolved = attrgetter(cls.__qualname__)(module)
    except AttributeError:
        resolved = None
    if resolved is not cls or not file or cls.__module__ == "__main__":
        raise NotApplicable(f"other processes cannot find it as {name}: define it at the top level of a module")
    return {"module": cls.__module__, "qualname": cls.__qualname__, "file": os.path.realpath(file)}


@cache
def _get_worker_pair() -> WorkerPool:
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    workers = WorkerPool(2, environment={"PYTHONPATH": path})
    atexit.register(workers.close)
    return workers


@cache
def unavailable_reason() -> str | None:
    """Returns why two processes cannot train together on this machine, or None if they can."""
    if find_spec("deepspeed") is None:
        return "deepspeed is not installed, which training in two processes needs: pip install deepspeed"
    try:
        _get_worker_pair().call("ni_framework.testing.workers.zero_worker:prepare_worker")
    except WorkerCallFailed as failed:
        reason = next(filter(None, failed.messages), "they end, or do not respond")
        return f"two processes cannot train together on this machine: {reason}"
    return None
