"""Training steps under ZeRO on random inputs, stage by stage: time, elements a second, memory.

    python tests/benchmarks/scale.py                                  # the 100 million, on one GPU
    torchrun --nproc_per_node 8 tests/benchmarks/scale.py recipes/scale/1b.yaml train.batch=128
    python tests/benchmarks/scale.py recipes/scale/small.yaml         # on a CPU: shows that it works

One JSON document a stage on stdout. Nothing is read from a disk, and nothing saved.
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
from ni_framework.data.batch import parts
from ni_framework.distributed.rendezvous import join
from ni_framework.engines.deepspeed.engine import ZeroEngine

RECIPE = Path(__file__).parents[2] / "recipes" / "scale" / "100m.yaml"
WARM_UP, STEPS = 2, 8


def measure(path: str | Path, overrides: list[str], stage: int) -> dict[str, Any]:
    """A few steps at a stage: their time and what they hold."""
    recipe = load_recipe(path, ["engine.use=zero", *overrides, f"engine.stage={stage}"])
    team = join(recipe.engine)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.NamedTemporaryFile("w") as log:
        engine = ZeroEngine(recipe, team, log=log)  # pyright: ignore[reportArgumentType]  a file it is
        share = parts(random_batch(engine, recipe.train.batch), team.size)[team.rank]
        losses = []
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                begin = _now(cuda)
            done = engine.step(step, share, False)
            losses.append(done.values["loss"].item())
        seconds = (_now(cuda) - begin) / STEPS  # pyright: ignore[reportPossiblyUnboundVariable]
        elements = recipe.train.batch * (engine.model.input.num_elements + 1)
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found = {
            "stage": stage,
            "processes": team.size,
            "device": torch.cuda.get_device_name() if cuda else "CPU",
            "precision": recipe.train.precision,
            "parameters": engine.num_parameters,
            "seconds a step": round(seconds, 4),
            "elements a second": round(elements / seconds),
            "peak bytes": peak,
            "losses": losses,
        }
        engine.close()
    return found if team.leads else {}


def _now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    path, *overrides = sys.argv[1:] or [str(RECIPE)]
    for stage in (1, 2, 3):
        if found := measure(path, overrides, stage):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
