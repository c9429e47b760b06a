"""The routing probe: before the first step, would this model route at all?"""

from __future__ import annotations

from typing import Any

from ni_framework.contracts import Batch
from ni_framework.data.batch import to
from ni_framework.data.sampler import Order
from ni_framework.engines.base import Engine
from ni_framework.errors import RunError
from ni_framework.evaluation.evaluate import evaluating
from ni_framework.model.routing_metrics import routing_figures, warnings
from ni_framework.model.trace import trace


def probe(engine: Engine, order: Order, tell: Any) -> dict[str, float]:
    """The routing figures of the first batch, logged as step 0, with a warning and a remedy for each that is degenerate.

    Raises `RunError` if every pair is closed: nothing would be computed, and no gradient could change that.
    """
    batch: Batch = to(order[0], engine.device)
    with evaluating(engine.model), engine.autocast():
        figures = routing_figures(trace(engine.model, batch.inputs, batch.mask), batch.mask)
    figures = engine.team.means(figures)
    tell.run_log(step=0, metrics=figures)
    if figures.get("routing/open") == 0:
        raise RunError(
            "every pair of function and element is closed at step 0: nothing would be computed and no gradient could open one; "
            "raise model.router.truncation (1.42 opens nearly all pairs, 1.0 half of them)"
        )
    for message in warnings(figures):
        tell.run_warning(step=0, message=message)
    return figures
