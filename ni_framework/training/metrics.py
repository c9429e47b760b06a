"""The metrics of a training: `metrics.jsonl`, one JSON document a line, and means over the steps between two lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ni_framework.contracts import hookimpl
from ni_framework.utils.atomic_files import atomic_write
from ni_framework.utils.nonfinite_json import nonfinite_to_null
from ni_framework.utils.prefixes import strip_prefix


class MetricsFile:
    """A listener that appends to `metrics.jsonl`: a line has the step, the seconds of training so far, and metrics by name.

    A number that is not finite is written as null, since JSON has none. A warning has a line of its own.
    """

    def __init__(self, path: Path) -> None:
        # The seconds that the run had taken when it was interrupted.
        self.seconds_before = 0.0
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
        seconds = self.seconds_before + time.monotonic() - self._start
        line = {"step": step, "seconds": round(seconds, 3)} | nonfinite_to_null(metrics)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def truncate_metrics(source: Path, step: int, target: Path, evaluated: bool) -> float:
    """Copies the lines of a metrics file up to a step. Later or incomplete lines belong to steps that are done again.

    Args:
        source: The metrics file to read; if it does not exist, the copy is empty.
        step: The last step whose lines are copied.
        target: The file to write; it may be `source` itself.
        evaluated: Whether the evaluation of `step` itself is copied; it is False if that evaluation is done again.

    Returns:
        The seconds of training up to the last line that was copied.
    """
    lines, seconds = [], 0.0
    for text in source.read_text(encoding="utf-8", errors="replace").splitlines() if source.exists() else ():
        try:
            line = json.loads(text)
            line_seconds = float(line["seconds"])
            is_repeated = line["step"] > step or (line["step"] == step and not evaluated and _is_evaluation(line))
        except (ValueError, KeyError, TypeError):
            break
        if is_repeated:
            break
        lines.append(f"{text}\n")
        seconds = line_seconds
    atomic_write(target, "".join(lines).encode())
    return seconds


def _is_evaluation(line: Mapping[str, object]) -> bool:
    return any(name.startswith("test/") for name in line)


class MeanAccumulator:
    """Computes means over steps; the sums stay on the device until the means are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the scalars of one step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._count += 1

    def pop(self) -> dict[str, float]:
        """Returns the means since the last call, and starts again; empty if nothing was added."""
        means = {name: total.item() / self._count for name, total in self._sums.items()}
        self.__init__()
        return means

    def state(self) -> dict[str, Tensor]:
        """Returns the sums since the last call of `pop`."""
        return {"count": torch.tensor(self._count)} | {f"sum/{name}": total for name, total in self._sums.items()}

    def load_state(self, stored: Mapping[str, Tensor], device: torch.device) -> None:
        """Restores what `state` returned."""
        self._count = int(stored["count"])
        self._sums = {name: total.to(device) for name, total in strip_prefix("sum/", stored).items()}
