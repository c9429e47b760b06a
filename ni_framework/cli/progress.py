"""A run as people watch it: a bar on a terminal, one line per interval elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from ni_framework.contracts import MEASURES, hookimpl

_LEVELS = " ▁▂▃▄▅▆▇█"


class Progress:
    """Listens to a run and tells it on stderr: loss, accuracy or R^2, samples per second, use of functions, time left."""

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
        self.begin = self.shown = time.monotonic()
        self.samples = self.steps = self.batch = 0
        self.smooth: dict[str, float] = {}

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    @hookimpl
    def run_start(self, run: str, recipe: Any, num_parameters: int) -> None:
        self.steps, self.batch = recipe.train.steps, recipe.train.batch
        self.bar.update(self.task, total=self.steps)
        self.console.print(
            f"{recipe.name}: {num_parameters:,} parameters, {self.steps} steps of {recipe.train.batch}, in {run}"
        )

    @hookimpl
    def run_step(self, step: int, samples: int, values: Mapping[str, Tensor]) -> None:
        if self.samples == 0:  # the first step warms up; the rate is of those after it
            self.begin = time.monotonic()
        self.samples += samples
        now = time.monotonic()
        if now - self.shown > 0.2 and self.console.is_terminal:
            self.shown = now
            for name in _shown(values):  # of one batch each: smoothed, or they would flicker
                value = values[name].item()
                before = self.smooth.get(name, value)
                self.smooth[name] = before + 0.2 * (value - before)
            shown = {"learned": _words(self.smooth, 3), "rate": self._rate()}
            self.bar.update(self.task, completed=step, **shown)  # pyright: ignore[reportArgumentType]

    @hookimpl
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == 0:
            self.console.print(_probe_line(metrics))
            return
        use = [value for name, value in metrics.items() if name.startswith("routing/use/")]
        self.bar.update(self.task, completed=step, use=_bars(use))
        if not self.console.is_terminal:
            seen = self.samples // self.batch - 1  # steps since the first, whatever its number
            packed = f"  {_packed(metrics)}" if "routing/packed" in metrics else ""
            left = (time.monotonic() - self.begin) / max(seen, 1) * (self.steps - step)
            self.console.print(
                f"step {step}/{self.steps}  {_learned(metrics)}  "
                f"{self._rate()} images/s  use {_percents(use)}{packed}  left {left:.0f} s"
            )

    @hookimpl
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.console.print(f"step {step}/{self.steps}  {shown}")

    @hookimpl
    def run_warning(self, step: int, message: str) -> None:
        self.console.print(f"warning: {message}", style="bold yellow")

    @hookimpl
    def run_checkpoint(self, step: int, checkpoint: str) -> None:
        self.console.print(f"step {step}/{self.steps}  saved {checkpoint}")

    def _rate(self) -> str:
        """Samples per second since the first step."""
        seconds, samples = time.monotonic() - self.begin, self.samples - self.batch
        return f"{samples / seconds:,.0f}" if samples > 0 and seconds > 0 else "-"


def _learned(metrics: Mapping[str, float]) -> str:
    """Loss and measures of an interval, unless all of its steps were skipped."""
    of_training = {name.removeprefix("train/"): value for name, value in metrics.items() if name.startswith("train/")}
    return _words(of_training, 4) if "loss" in of_training else "no step was taken"


def _shown(values: Mapping[str, Any]) -> list[str]:
    """The loss and what else people are shown of a head's metrics."""
    return [name for name in ("loss", *MEASURES) if name in values]


def _words(values: Mapping[str, float], digits: int) -> str:
    forms = {"loss": f".{digits}f", "accuracy": ".1%"}
    return "  ".join(f"{name} {values[name]:{forms.get(name, '.3f')}}" for name in _shown(values))


def _probe_line(figures: Mapping[str, float]) -> str:
    norms = [value for name, value in figures.items() if name.startswith("routing/state_norm/")]
    use = [value for name, value in figures.items() if name.startswith("routing/use/")]
    packed = f", {_packed(figures)}" if "routing/packed" in figures else ""
    states = f"state norm {norms[0]:.3g} -> {norms[-1]:.3g}, " if norms else ""
    return (
        f"routing at step 0: {figures.get('routing/open', 0):.0%} of pairs open, "
        f"{figures.get('routing/orphans', 0):.0%} of elements without a function, {states}"
        f"logit variance {figures['routing/logit_variance']:.3g}, use {_percents(use)}{packed}"
    )


def _packed(figures: Mapping[str, float]) -> str:
    """What `execution: auto` chose."""
    share = figures["routing/packed"]
    return {0.0: "auto: all iterations dense", 1.0: "auto: all iterations packed"}.get(
        share, f"auto: {share:.0%} of iterations packed"
    )


def _percents(use: list[float]) -> str:
    return "/".join(f"{value:.0%}".rstrip("%") for value in use) + " %"


def _bars(use: list[float]) -> str:
    """One character a function: its share, the largest in full height."""
    largest = max(use, default=0) or 1
    return "".join(_LEVELS[round(value / largest * (len(_LEVELS) - 1))] for value in use)
