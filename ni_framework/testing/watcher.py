"""The process that imports modules and tells on stdout, as JSON, what each did beside: see `importing`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import warnings
from typing import Any

import torch  # noqa: F401  before the modules, so that its own import is not theirs

import ni_framework.contracts  # noqa: F401
from ni_framework.registry.watching import watched


def faults_of(module: str) -> list[str]:
    """What the import of one module does, in words."""
    before = _around()
    with tempfile.TemporaryFile("w+b") as said:
        streams = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        try:
            with watched() as changed:
                importlib.import_module(module)
            faults = [f"changes {name}" for name in changed]
        except BaseException as fault:
            faults = [f"raises {type(fault).__name__}: {fault}"]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, old in zip((1, 2), streams, strict=True):
                os.dup2(old, stream)
                os.close(old)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    faults += [f"prints {lines[0]!r}"] if lines else []
    return faults + [words for words, value in _around().items() if value != before[words]]


def _around() -> dict[str, Any]:
    """What is around a module, by what it does if it changes that."""
    return {
        "changes os.environ": dict(os.environ),
        "starts threads": threading.active_count(),
        "writes files into the current folder": sorted(os.listdir(".")),
        "changes signal handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "changes filters of warnings": list(warnings.filters),
    }


if __name__ == "__main__":
    print(json.dumps({module: faults_of(module) for module in json.loads(sys.argv[1])}))
