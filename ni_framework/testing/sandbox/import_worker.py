"""The process that imports modules and writes the side effects of each one to a file, as a line of JSON (`imports`)."""

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

# Imported before the modules, so that the side effects of importing torch are not attributed to them.
import torch  # noqa: F401

import ni_framework.contracts  # noqa: F401
from ni_framework.registry.global_state import GlobalState

CHANGES_CWD, WRITES_FILES = "changes the current folder", "writes files into the current folder"
STARTS_THREADS = "starts threads"


def collect_import_faults(module: str) -> list[str]:
    """Imports a module, given by its name or its file, and describes the side effects."""
    before, global_state = _snapshot_process(), GlobalState()
    with tempfile.TemporaryFile("w+b") as output:
        streams = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        try:
            _import_module(module)
            faults = []
        except BaseException as error:
            faults = [f"raises {type(error).__name__}: {error}"]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, old in zip((1, 2), streams, strict=True):
                os.dup2(old, stream)
                os.close(old)
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    faults += [f"changes {name}" for name in global_state.restore()]
    faults += [f"prints {lines[0]!r}"] if lines else []
    after = _snapshot_process()
    # A thread that an earlier module has started may have ended.
    after[STARTS_THREADS] |= before[STARTS_THREADS]
    if after[CHANGES_CWD] != before[CHANGES_CWD]:
        # These files are in a different folder and cannot be compared.
        del after[WRITES_FILES]
        os.chdir(before[CHANGES_CWD])
    return faults + [message for message, value in after.items() if value != before[message]]


def _import_module(module: str) -> None:
    if not module.endswith(".py"):
        importlib.import_module(module)
    elif (spec := spec_from_file_location("one_file", module)) and spec.loader:
        sys.modules["one_file"] = loaded = module_from_spec(spec)
        spec.loader.exec_module(loaded)


def _snapshot_process() -> dict[str, Any]:
    """Returns the process state that a module must not change, by the message for a change."""
    return {
        "changes os.environ": dict(os.environ),
        STARTS_THREADS: set(threading.enumerate()),
        CHANGES_CWD: os.getcwd(),
        WRITES_FILES: sorted(os.listdir(".")),
        "changes sys.path": list(sys.path),
        "changes the root logger": (logging.root.level, list(logging.root.handlers)),
        "changes signal handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "changes filters of warnings": list(warnings.filters),
    }


if __name__ == "__main__":
    modules, report_path = json.loads(sys.argv[1]), sys.argv[2]
    # Each line is written immediately, because the next module may end this process.
    with open(report_path, "w", encoding="utf-8", buffering=1) as file:
        for module in modules:
            file.write(json.dumps(collect_import_faults(module)) + "\n")
