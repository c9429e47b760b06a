"""The progress of a run on stderr: a bar on a terminal, one line for each logging interval elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from ni_framework.contracts import SUMMARY_METRICS, hookimpl
from ni_framework.utils.prefixes import strip_prefix

_BAR_CHARACTERS = " ▁▂▃▄▅▆▇█"


class ProgressListener:
    """Prints the progress of a run: loss, accuracy or 1 - MSE, samples per second, use of functions, remaining time."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[learned]}  {task.fields[rate]} images/s"),
            TextColumn("use {task.fields[use]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            refresh_per_second=5,
        )
        self.task = self.bar.add_task("training", total=None, learned="loss -", rate="-", use="-")
        self.start_time = self.last_update = time.monotonic()
        self.samples = self.total_steps = self.batch_size = 0
        self.smoothed: dict[str, float] = {}

    def __enter__(self) -> ProgressListener:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    @hookimpl
    def run_start(self, run: str, recipe: Any, num_parameters: int) -> None:
        self.total_steps, self.batch_size = recipe.train.steps, recipe.train.batch
        self.bar.update(self.task, total=self.total_steps)
        self.console.print(
            f"{recipe.name}: {num_parameters:,} parameters, {self.total_steps} steps of {recipe.train.batch}, in {run}"
        )

    @hookimpl
    def run_step(self, step: int, samples: int, values: Mapping[str, Tensor]) -> None:
        # The first step warms up, so the rate is measured over the steps after it.
        if self.samples == 0:
            self.start_time = time.monotonic()
        self.samples += samples
        now = time.monotonic()
        if now - self.last_update > 0.2 and self.console.is_terminal:
            self.last_update = now
            # These are metrics of single batches; without smoothing they would change too fast to be read.
            for name in _summary_metric_names(values):
                value = values[name].item()
                before = self.smoothed.get(name, value)
                self.smoothed[name] = before + 0.2 * (value - before)
            fields = {"learned": _format_metrics(self.smoothed, 3), "rate": self._format_rate()}
            self.bar.update(self.task, completed=step, **fields)  # pyright: ignore[reportArgumentType]

    @hookimpl
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == 0:
            self.console.print(_format_probe(metrics))
            return
        use = [value for name, value in metrics.items() if name.startswith("routing/use/")]
        self.bar.update(self.task, completed=step, use=_draw_bars(use))
        if not self.console.is_terminal:
            # A resumed run does not start at step 0, so steps are counted here.
            steps_done = self.samples // self.batch_size - 1
            packed = f"  {_format_packed_share(metrics)}" if "routing/packed" in metrics else ""
            seconds_left = (time.monotonic() - self.start_time) / max(steps_done, 1) * (self.total_steps - step)
            self.console.print(
                f"step {step}/{self.total_steps}  {_format_train_metrics(metrics)}  "
                f"{self._format_rate()} images/s  use {_format_percents(use)}{packed}  left {seconds_left:.0f} s"
            )

    @hookimpl
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.console.print(f"step {step}/{self.total_steps}  {text}")

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.console.print(f"warning: {message}", style="bold yellow")

    @hookimpl
    def run_checkpoint(self, step: int, checkpoint: str) -> None:
        self.console.print(f"step {step}/{self.total_steps}  saved {checkpoint}")

    def _format_rate(self) -> str:
        """Formats the samples per second since the first step."""
        seconds, samples = time.monotonic() - self.start_time, self.samples - self.batch_size
        return f"{samples / seconds:,.0f}" if samples > 0 and seconds > 0 else "-"


def _format_train_metrics(metrics: Mapping[str, float]) -> str:
    """Formats the loss and the summary metrics of an interval, unless all of its steps were skipped."""
    train_metrics = strip_prefix("train/", metrics)
    return _format_metrics(train_metrics, 4) if "loss" in train_metrics else "all steps were skipped"


def _summary_metric_names(values: Mapping[str, Any]) -> list[str]:
    """Returns the loss and those of the head's metrics that are printed beside it."""
    return [name for name in ("loss", *SUMMARY_METRICS) if name in values]


def _format_metrics(values: Mapping[str, float], digits: int) -> str:
    forms = {"loss": f".{digits}f", "accuracy": ".1%"}
    return "  ".join(f"{name} {values[name]:{forms.get(name, '.3f')}}" for name in _summary_metric_names(values))


def _format_probe(metrics: Mapping[str, float]) -> str:
    norms = [value for name, value in metrics.items() if name.startswith("routing/state_norm/")]
    use = [value for name, value in metrics.items() if name.startswith("routing/use/")]
    packed = f", {_format_packed_share(metrics)}" if "routing/packed" in metrics else ""
    states = f"state norm {norms[0]:.3g} -> {norms[-1]:.3g}, " if norms else ""
    return (
        f"routing at step 0: {metrics.get('routing/open', 0):.0%} of pairs open, "
        f"{metrics.get('routing/orphans', 0):.0%} of elements without a function, {states}"
        f"logit variance {metrics['routing/logit_variance']:.3g}, use {_format_percents(use)}{packed}"
    )


def _format_packed_share(metrics: Mapping[str, float]) -> str:
    """Formats which layout `execution: auto` chose."""
    share = metrics["routing/packed"]
    return {0.0: "auto: all iterations dense", 1.0: "auto: all iterations packed"}.get(
        share, f"auto: {share:.0%} of iterations packed"
    )


def _format_percents(use: list[float]) -> str:
    return "/".join(f"{value:.0%}".rstrip("%") for value in use) + " %"


def _draw_bars(use: list[float]) -> str:
    """Draws one character for each function; the most used one has full height."""
    largest = max(use, default=0) or 1
    return "".join(_BAR_CHARACTERS[round(value / largest * (len(_BAR_CHARACTERS) - 1))] for value in use)
