"""What a run has measured so far, read back from its metrics."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import frozen

from ni_framework.checkpoint.run_dir import METRICS
from ni_framework.errors import UsageError

_LARGEST = 3.5e38
Series = tuple[list[int], list[float]]  # steps, and values at them


@frozen
class History:
    """The metrics of a run by name, and the steps of its warnings."""

    series: dict[str, Series]
    warnings: list[int]

    def steps(self) -> set[int]:
        """Every step of which something is known."""
        return {*self.warnings, *(step for steps, _ in self.series.values() for step in steps)}

    def under(self, prefix: str) -> dict[str, Series]:
        """The series whose names begin with a prefix, by what follows."""
        return {name.removeprefix(prefix): found for name, found in self.series.items() if name.startswith(prefix)}


def read_history(run: Path) -> History:
    """The history of a run, also of one that goes on: a line that is cut off is left out, as is what is not finite.

    Raises `UsageError` where there is none.
    """
    path = run / METRICS
    if not run.is_dir():
        raise UsageError(f"{run}: there is no such run; name the folder of a run")
    if not path.is_file():
        raise UsageError(f"{run}: holds no {METRICS}; name the folder of a run")
    series: dict[str, Series] = {}
    warnings: list[int] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            step = int(line["step"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
        if "warning" in line:
            warnings.append(step)
        for name, value in line.items():
            if name not in ("step", "seconds") and _is_number(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    if not series:
        raise UsageError(f"{path}: holds no line of metrics yet; wait for the first, or name another run")
    return History(series, warnings)


def _is_number(value: object) -> bool:
    """Whether a picture can hold it: no more than single precision knows, which training does not exceed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
