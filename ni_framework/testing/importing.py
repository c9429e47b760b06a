"""What importing a module does beside defining things, seen in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT = 120  # seconds, for a module that never ends
_found: dict[str, tuple[str, ...]] = {}


def import_faults(module: str) -> tuple[str, ...]:
    """What a module does while it is imported that it must not, in words; empty if nothing."""
    if module not in _found:
        watch_imports([module])
    return _found[module]


def watch_imports(modules: Sequence[str]) -> None:
    """Looks at several modules in one process, since most of the time goes into its start."""
    path = [os.path.abspath(entry) for entry in sys.path]
    with tempfile.TemporaryDirectory() as folder:
        answer, inside = Path(folder, "answer.json"), Path(folder, "inside")
        inside.mkdir()
        command = [sys.executable, "-m", "ni_framework.testing.watcher", json.dumps([*modules]), str(answer)]
        try:
            done = subprocess.run(
                command,
                cwd=inside,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                capture_output=True,
                timeout=TIMEOUT,
            )
            ended = [f"ends the process with exit code {done.returncode}"]
            found = _read(answer) or dict.fromkeys(modules, ended)
        except subprocess.TimeoutExpired:
            found = {module: [f"does not end within {TIMEOUT} s"] for module in modules}
    if len(modules) > 1 and len({*map(tuple, found.values())}) == 1 and any(found.values()):
        for module in modules:  # one of them ended the process for all
            watch_imports([module])
        return
    _found.update({module: tuple(faults) for module, faults in found.items()})


def _read(answer: Path) -> dict[str, Any] | None:
    """What the process told; None if it did not come to tell, or if what is there cannot be read."""
    try:
        return json.loads(answer.read_text())
    except (OSError, ValueError):
        return None
