"""Writes a run for TensorBoard: every metric as a scalar, and warnings and the recipe as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ni_framework.checkpoint.run_dir import METRICS_FILE
from ni_framework.contracts import hookimpl
from ni_framework.errors import UsageError
from ni_framework.recipe import dump


class TensorBoardListener:
    """Listens to a run and writes event files to `tensorboard/` in its folder.

    Raises `UsageError` if the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                '--tensorboard needs the package tensorboard; pip install "ni-framework[tensorboard]"'
            ) from error
        self._writer_class = SummaryWriter
        self._writer: Any = None
        self._folder: Path | None = None
        self._recipe = ""
        # The metrics lines of the step from which a resumed run continues.
        self._last_step_lines: list[dict[str, Any]] = []

    def __enter__(self) -> TensorBoardListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    @hookimpl
    def run_start(self, run: str, recipe: Any, num_parameters: int) -> None:
        self._folder = Path(run) / "tensorboard"
        self._recipe = f"```yaml\n{dump(recipe)}```"
        self._last_step_lines = _read_last_step(Path(run) / METRICS_FILE)

    @hookimpl
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add_scalars(step, metrics)

    @hookimpl
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add_scalars(step, metrics)

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self._writer_at(step).add_text("warning", message, step)

    def _add_scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        writer = self._writer_at(step)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def _rewrite_line(self, line: Mapping[str, Any]) -> None:
        """Writes a line of the metrics file again, because purging its step has hidden it."""
        if "warning" in line:
            self._writer.add_text("warning", line["warning"], line["step"])
            return
        for name, value in line.items():
            if name not in ("step", "seconds"):
                self._writer.add_scalar(name, float("nan") if value is None else value, line["step"])

    def _writer_at(self, step: int) -> Any:
        """Returns the writer, which is opened when the first event arrives.

        Steps after the last one that the metrics file keeps are trained again, so their old events are purged. The last kept
        step may receive further events, such as an evaluation or a warning. It is therefore purged as well, and its lines are
        written again.
        """
        if self._writer is None:
            kept_lines = [line for line in self._last_step_lines if line["step"] <= step]
            first_step = kept_lines[0]["step"] if kept_lines else step
            self._writer = self._writer_class(str(self._folder), purge_step=first_step)
            self._writer.add_text("recipe", self._recipe, first_step)
            for line in kept_lines:
                self._rewrite_line(line)
        return self._writer


def _read_last_step(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of the last step in a metrics file, which training has truncated to what a resumed run keeps."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        # A run that was killed before its first checkpoint may have written an incomplete line.
        with suppress(ValueError):
            lines.append(json.loads(text))
    return [line for line in lines if line["step"] == lines[-1]["step"]]
