"""The learning rate as a closed form of the step."""

from __future__ import annotations

import math

from ni_framework.recipe.schema import Schedule


def learning_rate(step: int, steps: int, schedule: Schedule) -> float:
    """The rate of a step (from 0) in parts of the largest; steps before the schedule's own first one do not count.

    constant: rises in a line, then stays. cosine: rises in a line, falls as half a cosine to 0 (Loshchilov and Hutter 2017).
    one_cycle: rises from 1/25 and falls to 1/250,000, each as half a cosine (Smith and Topin 2018).
    """
    step, steps = step - schedule.begin, max(steps - schedule.begin, 1)
    warmup = schedule.warmup * steps
    if schedule.use == "one_cycle":
        top = max(warmup - 1, 0)  # the step with the largest rate
        if step < top:
            return _cosine(1 / 25, 1, step / top)
        return _cosine(1, 1 / 250_000, (step - top) / max(steps - 1 - top, 1))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1.0 if schedule.use == "constant" else _cosine(1, 0, (step - warmup) / (steps - warmup))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1))) / 2
