"""What is measured while training: one JSON document a line, and means between two lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ni_framework.contracts import hookimpl


class MetricsFile:
    """Writes each line of metrics to `metrics.jsonl`: step, seconds since the start, and the numbers by name."""

    def __init__(self, path: Path) -> None:
        self._path, self._start = path, time.monotonic()

    @hookimpl
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, metrics)

    @hookimpl
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, metrics)

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        line = {"step": step, "seconds": round(time.monotonic() - self._start, 3)} | dict(metrics)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Means:
    """Means of what every step adds, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds one step's scalars."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: total.item() / self._count for name, total in self._sums.items()}
        self.__init__()
        return means
