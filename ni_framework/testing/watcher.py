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
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import torch  # noqa: F401  before the modules, so that its own import is not theirs

import ni_framework.contracts  # noqa: F401
from ni_framework.registry.shared import Shared


def faults_of(module: str) -> list[str]:
    """What the import of one module, or of the module in a file, does, in words."""
    before, shared = _around(), Shared()
    with tempfile.TemporaryFile("w+b") as said:
        streams = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        try:
            _import(module)
            faults = []
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
    faults += [f"changes {name}" for name in shared.put_back()]
    faults += [f"prints {lines[0]!r}"] if lines else []
    return faults + [words for words, value in _around().items() if value != before[words]]


def _import(module: str) -> None:
    if not module.endswith(".py"):
        importlib.import_module(module)
    elif (spec := spec_from_file_location("one_file", module)) and spec.loader:
        sys.modules["one_file"] = loaded = module_from_spec(spec)
        spec.loader.exec_module(loaded)


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
