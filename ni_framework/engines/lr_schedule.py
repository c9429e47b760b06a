"""The learning rate as a closed form of the step."""

from __future__ import annotations

import math

from ni_framework.recipe.schema import ScheduleConfig


def lr_factor(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Returns the learning rate of a step as a fraction of the largest one.

    constant: rises linearly, then stays. cosine: rises linearly, then falls as half a cosine to 0 (Loshchilov and Hutter
    2017). one_cycle: rises from 1/25 and falls to 1/250,000, each as half a cosine (Smith and Topin 2018).

    Args:
        step: The step, counted from 0.
        steps: The number of steps of the training.
        schedule: The kind of schedule, its warm-up as a fraction of the steps, and the step at which it starts.

    Returns:
        The factor, above 0 and at most 1.
    """
    step, steps = step - schedule.start_step, max(steps - schedule.start_step, 1)
    warmup = schedule.warmup * steps
    if schedule.use == "one_cycle":
        # The step with the largest rate.
        top = max(warmup - 1, 0)
        if step < top:
            return _cosine(1 / 25, 1, step / top)
        return _cosine(1, 1 / 250_000, (step - top) / max(steps - 1 - top, 1))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1.0 if schedule.use == "constant" else _cosine(1, 0, (step - warmup) / (steps - warmup))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1))) / 2
