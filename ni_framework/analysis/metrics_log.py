"""Reads the metrics file of a run."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import frozen

from ni_framework.checkpoint.run_dir import METRICS_FILE
from ni_framework.errors import UsageError
from ni_framework.utils.prefixes import strip_prefix

# Plots use single precision, and training does not produce larger numbers either.
_MAX_PLOTTABLE = 3.5e38
# Steps, and the values at these steps.
MetricSeries = tuple[list[int], list[float]]


@frozen
class MetricsLog:
    """The metrics of a run by name, and the steps of its warnings."""

    series: dict[str, MetricSeries]
    warning_steps: list[int]

    def all_steps(self) -> set[int]:
        """Returns every step that has a metric or a warning."""
        return {*self.warning_steps, *(step for steps, _ in self.series.values() for step in steps)}

    def with_prefix(self, prefix: str) -> dict[str, MetricSeries]:
        """Returns the series whose names start with a prefix, by the rest of their names."""
        return strip_prefix(prefix, self.series)


def read_metrics_log(run: Path) -> MetricsLog:
    """Reads the metrics of a run, which may still be in progress; incomplete lines and values that are not finite are skipped.

    Raises `UsageError` if there are no metrics.
    """
    path = run / METRICS_FILE
    if not run.is_dir():
        raise UsageError(f"{run}: there is no such folder; name a run folder")
    if not path.is_file():
        raise UsageError(f"{run}: contains no {METRICS_FILE}; name a run folder")
    series: dict[str, MetricSeries] = {}
    warning_steps: list[int] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            step = int(line["step"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
        if "warning" in line:
            warning_steps.append(step)
        for name, value in line.items():
            if name not in ("step", "seconds") and _is_plottable(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    if not series:
        raise UsageError(f"{path}: contains no metrics yet; wait for the first ones, or name another run")
    return MetricsLog(series, warning_steps)


def _is_plottable(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_PLOTTABLE
