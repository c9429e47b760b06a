"""What is measured while training: one JSON document a line, and means between two lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ni_framework.contracts import hookimpl
from ni_framework.utils.atomic_files import replace_file
from ni_framework.utils.nonfinite_json import finite


class MetricsFile:
    """Writes each line of metrics to `metrics.jsonl`: step, seconds of training so far, and the numbers by name.

    A number that is not finite is null, since JSON knows none; warnings have lines of their own.
    """

    def __init__(self, path: Path) -> None:
        self.seconds = 0.0  # that the run had taken when it was interrupted
        self._path, self._start = path, time.monotonic()

    @hookimpl
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, metrics)

    @hookimpl
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, metrics)

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self._write(step, {"warning": message})

    def _write(self, step: int, metrics: Mapping[str, float | str]) -> None:
        seconds = self.seconds + time.monotonic() - self._start
        line = {"step": step, "seconds": round(seconds, 3)} | finite(metrics)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def keep_lines(source: Path, step: int, target: Path, evaluated: bool) -> float:
    """Copies the lines of a metrics file up to a step, onto itself too, and returns the seconds of the last one.

    What follows, or was cut off, belongs to steps that are done again; the evaluation of that step is kept if `evaluated`.
    """
    kept, seconds = [], 0.0
    for text in source.read_text(encoding="utf-8", errors="replace").splitlines() if source.exists() else ():
        try:
            line = json.loads(text)
            seconds_here = float(line["seconds"])
            again = line["step"] > step or (line["step"] == step and not evaluated and _is_evaluation(line))
        except (ValueError, KeyError, TypeError):
            break
        if again:
            break
        kept.append(f"{text}\n")
        seconds = seconds_here
    replace_file(target, "".join(kept).encode())
    return seconds


def _is_evaluation(line: Mapping[str, object]) -> bool:
    return any(name.startswith("test/") for name in line)


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
        """The means since the last call; empty if nothing was added."""
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
