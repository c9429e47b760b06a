"""The routing probe: checks before the first step that the model routes elements to functions."""

from __future__ import annotations

from typing import Any

from ni_framework.contracts import Batch
from ni_framework.data.batch import to_device
from ni_framework.data.sampler import EpochSampler
from ni_framework.engines.base import Engine
from ni_framework.errors import RunError
from ni_framework.evaluation.evaluate import eval_mode
from ni_framework.model.routing_metrics import routing_metrics, routing_warnings
from ni_framework.model.trace import trace


def probe_routing(engine: Engine, sampler: EpochSampler, hooks: Any) -> dict[str, float]:
    """Measures the routing of the first batch, logs it as step 0, and warns of each degenerate metric, with a remedy.

    Args:
        engine: Holds the initial model.
        sampler: The batches of the training split.
        hooks: The listeners; rank 0's receive the metrics and the warnings.

    Returns:
        The routing metrics by name, means over ranks.

    Raises:
        RunError: Every pair is closed: nothing would be computed, and no gradient could change that.
    """
    batch: Batch = to_device(sampler[0], engine.device)
    with eval_mode(engine.model), engine.autocast():
        metrics = routing_metrics(trace(engine.model, batch.inputs, batch.mask), batch.mask)
    metrics = engine.comm.all_reduce_mean_dict(metrics)
    hooks.run_log(step=0, metrics=metrics)
    if metrics.get("routing/open") == 0:
        raise RunError(
            "every pair of function and element is closed at step 0: nothing would be computed and no gradient could open one; "
            "raise model.router.truncation (1.42 opens nearly all pairs, 1.0 half of them)"
        )
    for message in routing_warnings(metrics):
        hooks.run_warning(step=0, message=message)
    return metrics
