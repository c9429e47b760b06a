"""The process that imports modules and tells in a file, in a line of JSON each, what they did beside: see `importing`."""

from __future__ import annotations

import importlib
import json
import logging
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
from ni_framework.registry.global_state import Shared

FOLDER, FILES = "changes the current folder", "writes files into the current folder"
THREADS = "starts threads"


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
    after = _around()
    after[THREADS] |= before[THREADS]  # that of a module before it may have ended
    if after[FOLDER] != before[FOLDER]:
        del after[FILES]  # which are those of another folder
        os.chdir(before[FOLDER])
    return faults + [words for words, value in after.items() if value != before[words]]


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
        THREADS: set(threading.enumerate()),
        FOLDER: os.getcwd(),
        FILES: sorted(os.listdir(".")),
        "changes sys.path": list(sys.path),
        "changes the root logger": (logging.root.level, list(logging.root.handlers)),
        "changes signal handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "changes filters of warnings": list(warnings.filters),
    }


if __name__ == "__main__":
    modules, answer = json.loads(sys.argv[1]), sys.argv[2]
    with open(answer, "w", encoding="utf-8", buffering=1) as file:  # each line at once: the next module may end us
        for module in modules:
            file.write(json.dumps(faults_of(module)) + "\n")
