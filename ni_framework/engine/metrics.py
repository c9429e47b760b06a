"""What is measured while training: one JSON document a line, and means between two lines."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ni_framework.contracts import hookimpl


class MetricsFile:
    """Writes each line of metrics to `metrics.jsonl`: step, seconds of training so far, and the numbers by name."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self._path, self._start = path, time.monotonic() - seconds

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


def keep_lines(source: Path, step: int, target: Path) -> None:
    """Copies the lines of a metrics file up to a step, onto itself too.

    What follows, or was cut off, belongs to steps that are done again.
    """
    kept = []
    for text in source.read_text(encoding="utf-8", errors="replace").splitlines() if source.exists() else ():
        try:
            if json.loads(text)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(f"{text}\n")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    beside.write_text("".join(kept), encoding="utf-8")
    beside.replace(target)


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

    def state(self) -> dict[str, Tensor]:
        """What was added since the last call of `take`."""
        return {"count": torch.tensor(self._count)} | {f"sum/{name}": total for name, total in self._sums.items()}

    def load_state(self, stored: Mapping[str, Tensor], device: torch.device) -> None:
        """Goes on from what `state` returned."""
        self._count = int(stored["count"])
        self._sums = {
            name.removeprefix("sum/"): total.to(device) for name, total in stored.items() if name.startswith("sum/")
        }
