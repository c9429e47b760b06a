"""A run for TensorBoard to show: every metric as a scalar, warnings and the recipe as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ni_framework.checkpoint.run_dir import METRICS
from ni_framework.contracts import hookimpl
from ni_framework.errors import UsageError
from ni_framework.recipe import dump


class TensorBoard:
    """Listens to a run and writes event files to `tensorboard/` in its folder.

    Raises `UsageError` where the package is absent.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                '--tensorboard needs the package tensorboard; pip install "ni-framework[tensorboard]"'
            ) from error
        self._new_writer = SummaryWriter
        self._writer: Any = None
        self._folder: Path | None = None
        self._recipe = ""
        self._kept: list[dict[str, Any]] = []  # the lines of the last step that a resumed run has kept

    def __enter__(self) -> TensorBoard:
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
        self._kept = _last_lines(Path(run) / METRICS)

    @hookimpl
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add(step, metrics)

    @hookimpl
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add(step, metrics)

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self._at(step).add_text("warning", message, step)

    def _add(self, step: int, metrics: Mapping[str, float]) -> None:
        writer = self._at(step)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def _again(self, line: Mapping[str, Any]) -> None:
        """Writes a kept line, which purging its step has hidden."""
        if "warning" in line:
            self._writer.add_text("warning", line["warning"], line["step"])
            return
        for name, value in line.items():
            if name not in ("step", "seconds"):
                self._writer.add_scalar(name, float("nan") if value is None else value, line["step"])

    def _at(self, step: int) -> Any:
        """The writer, opened with the first step it hears of.

        What a stopped run wrote after the last step it has kept is done again, and so hidden; that step itself may be told
        more of (an evaluation, a warning), so that its lines are written once more.
        """
        if self._writer is None:
            kept = [line for line in self._kept if line["step"] <= step]
            begin = kept[0]["step"] if kept else step
            self._writer = self._new_writer(str(self._folder), purge_step=begin)
            self._writer.add_text("recipe", self._recipe, begin)
            for line in kept:
                self._again(line)
        return self._writer


def _last_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file's last step; the trainer has cut the file to what a resumed run keeps."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError):  # a run that was killed before its first checkpoint may have left a part of a line
            lines.append(json.loads(text))
    return [line for line in lines if line["step"] == lines[-1]["step"]]
