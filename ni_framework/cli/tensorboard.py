"""A run for TensorBoard to show: every metric as a scalar, warnings and the recipe as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

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
        self._waiting: list[tuple[str, str]] = []

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
        self._waiting = [("recipe", f"```yaml\n{dump(recipe)}```")]

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

    def _at(self, step: int) -> Any:
        """The writer, opened with the first step it hears of: what a stopped run wrote after that is done again."""
        if self._writer is None:
            self._writer = self._new_writer(str(self._folder), purge_step=step)
            for name, text in self._waiting:
                self._writer.add_text(name, text, step)
        return self._writer
