"""What importing a module does beside defining things, seen in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

TIMEOUT = 120  # seconds, for a module that never ends
_found: dict[str, tuple[str, ...]] = {}


def import_faults(module: str) -> tuple[str, ...]:
    """What a module does while it is imported that it must not, in words; empty if nothing."""
    if module not in _found:
        watch_imports([module])
    return _found[module]


def watch_imports(modules: Sequence[str]) -> None:
    """Looks at several modules in one process, since most of the time goes into its start.

    Where that ends too early, another one looks at the rest; a module is blamed for it if it came first.
    """
    left = [*modules]
    while left:
        told, end = _watch(left)
        told = told or [[end]]
        _found.update(zip(left, map(tuple, told), strict=False))
        left = left[len(told) :]


def _watch(modules: Sequence[str]) -> tuple[list[list[str]], str]:
    """What each of the modules does, as far as the process came, and how that ended, in words."""
    path = [os.path.abspath(entry) for entry in sys.path]
    with tempfile.TemporaryDirectory() as folder:
        answer, inside = Path(folder, "answer"), Path(folder, "inside")
        inside.mkdir()
        command = [
            sys.executable,
            "-m",
            "ni_framework.testing.sandbox.import_worker",
            json.dumps([*modules]),
            str(answer),
        ]
        try:
            done = subprocess.run(
                command,
                cwd=inside,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                capture_output=True,
                timeout=TIMEOUT,
            )
            end = f"ends the process with exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            end = f"does not end within {TIMEOUT} s"
        return _read(answer), end


def _read(answer: Path) -> list[list[str]]:
    """What the process told: a line for each module that it came to the end of."""
    told = []
    with suppress(OSError, ValueError):  # it did not come to tell, or not to the end of a line
        for line in answer.read_text(encoding="utf-8").splitlines():
            told.append(json.loads(line))
    return told
