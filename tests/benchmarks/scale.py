"""Training steps under ZeRO on random inputs, stage by stage: time, elements a second, memory.

    python tests/benchmarks/scale.py                                  # the recipe with 100 million weights, on one GPU
    torchrun --nproc_per_node 8 tests/benchmarks/scale.py recipes/scale/1b.yaml train.batch=128
    python tests/benchmarks/scale.py recipes/scale/small.yaml         # on a CPU: shows that it works

Prints one JSON document for each stage on stdout. Reads no data and saves nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ni_framework import load_recipe
from ni_framework.analysis.bench import random_batch
from ni_framework.data.batch import split_batch
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.deepspeed.engine import ZeroEngine

SCALE_RECIPE = Path(__file__).parents[2] / "recipes" / "scale" / "100m.yaml"
WARM_UP, STEPS = 2, 8


def measure_stage(path: str | Path, overrides: list[str], stage: int) -> dict[str, Any]:
    """Takes a few steps at a stage, and returns their time, memory and losses; empty on ranks other than 0."""
    recipe = load_recipe(path, ["engine.use=zero", *overrides, f"engine.stage={stage}"])
    comm = init_process_group(recipe.engine)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.NamedTemporaryFile("w") as log:
        engine = ZeroEngine(recipe, comm, log=log)  # pyright: ignore[reportArgumentType]
        local_batch = split_batch(random_batch(engine, recipe.train.batch), comm.world_size)[comm.rank]
        losses = []
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                begin = _synchronized_time(cuda)
            result = engine.step(step, local_batch, False)
            losses.append(result.values["loss"].item())
        seconds = (_synchronized_time(cuda) - begin) / STEPS  # pyright: ignore[reportPossiblyUnboundVariable]
        elements = recipe.train.batch * (engine.model.input.num_elements + 1)
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report = {
            "stage": stage,
            "processes": comm.world_size,
            "device": torch.cuda.get_device_name() if cuda else "CPU",
            "precision": recipe.train.precision,
            "parameters": engine.num_parameters,
            "seconds a step": round(seconds, 4),
            "elements a second": round(elements / seconds),
            "peak bytes": peak,
            "losses": losses,
        }
        engine.close()
    return report if comm.is_rank_zero else {}


def _synchronized_time(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    path, *overrides = sys.argv[1:] or [str(SCALE_RECIPE)]
    for stage in (1, 2, 3):
        if report := measure_stage(path, overrides, stage):
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
