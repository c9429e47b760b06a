"""Finds the side effects of importing modules, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Seconds, for a module whose import does not end.
IMPORT_TIMEOUT = 120
_faults_by_module: dict[str, tuple[str, ...]] = {}


def find_import_faults(module: str) -> tuple[str, ...]:
    """Returns descriptions of the side effects of importing a module."""
    if module not in _faults_by_module:
        check_imports([module])
    return _faults_by_module[module]


def check_imports(modules: Sequence[str]) -> None:
    """Imports several modules in one process, because most of the time is spent on starting it, and stores their faults.

    If the process ends early, another one imports the remaining modules. A module that ends a process in which it is the first
    one is at fault.
    """
    remaining = [*modules]
    while remaining:
        reports, exit_text = _run_import_worker(remaining)
        reports = reports or [[exit_text]]
        _faults_by_module.update(zip(remaining, map(tuple, reports), strict=False))
        remaining = remaining[len(reports) :]


def _run_import_worker(modules: Sequence[str]) -> tuple[list[list[str]], str]:
    """Returns the faults of each module that the process has imported, and a description of how the process ended."""
    path = [os.path.abspath(entry) for entry in sys.path]
    with tempfile.TemporaryDirectory() as folder:
        report_path, work_dir = Path(folder, "report"), Path(folder, "work")
        work_dir.mkdir()
        command = [
            sys.executable,
            "-m",
            "ni_framework.testing.sandbox.import_worker",
            json.dumps([*modules]),
            str(report_path),
        ]
        try:
            completed = subprocess.run(
                command,
                cwd=work_dir,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                capture_output=True,
                timeout=IMPORT_TIMEOUT,
            )
            exit_text = f"ends the process with exit code {completed.returncode}"
        except subprocess.TimeoutExpired:
            exit_text = f"does not end within {IMPORT_TIMEOUT} s"
        return _read_worker_report(report_path), exit_text


def _read_worker_report(report_path: Path) -> list[list[str]]:
    """Reads the report of the process, which has one line for each module whose import has ended."""
    reports = []
    # The process may have ended before it wrote the file, or in the middle of a line.
    with suppress(OSError, ValueError):
        for line in report_path.read_text(encoding="utf-8").splitlines():
            reports.append(json.loads(line))
    return reports
