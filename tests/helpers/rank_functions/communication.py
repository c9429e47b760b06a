"""What DeepSpeed sends, and how much it holds, seen in each process; each function is called in all of them."""

from __future__ import annotations

import gc
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ni_framework.contracts import Batch
from ni_framework.distributed.communicator import Team
from ni_framework.engines.deepspeed.comm_monitor import SENT
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.model.interpreter import Interpreter
from tests.helpers.engine_cases import Case
from tests.helpers.rank_functions.engine_agreement import shares, team_here, zero_messages

GATHERS = ("all_gather", "all_gather_coalesced", "all_gather_into_tensor")
SETTLED = 2  # steps after which DeepSpeed knows the order of modules


@contextmanager
def engine_of(case: Case, stage: int, *overrides: str) -> Iterator[tuple[ZeroEngine, list[Batch], Team]]:
    """An engine, this process's batches, and the team."""
    team = team_here()
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.zero(Path(folder), stage, *overrides)
    engine = ZeroEngine(recipe, team, case.make_optimizer, case.prepare(recipe, team.size))
    try:
        yield engine, shares(case, recipe, team), team
    finally:
        engine.close()


class Ledger:
    """The messages that DeepSpeed sends, in their order: what, and how many elements."""

    def __init__(self) -> None:
        import deepspeed

        self.watched: Any = deepspeed.comm.comm.cdb  # pyright: ignore[reportAttributeAccessIssue]
        self.backend, self.lines = self.watched.backend, []

    def __enter__(self) -> Ledger:
        self.watched.backend = self
        return self

    def __exit__(self, *error: object) -> None:
        self.watched.backend = self.backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.backend, name)
        if name not in SENT:
            return found

        def send(*arguments: Any, **named: Any) -> Any:
            tensors = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
            self.lines.append([name, *(value.numel() for value in tensors)])
            return found(*arguments, **named)

        return send


def counts(iterations: Sequence[int], stage: int, overrides: Sequence[str]) -> list[dict[str, int]]:
    """The messages of one step by name, and the elements that were gathered, at each number of iterations."""
    answers = []
    for number in iterations:
        case = Case((*overrides, f"model.iterations={number}"), steps=SETTLED + 1)
        with engine_of(case, stage) as (engine, batches, _):
            for step, batch in enumerate(batches[:SETTLED]):
                engine.step(step, batch, False)
            before = zero_messages().copy()
            with Ledger() as ledger:
                engine.step(SETTLED, batches[SETTLED], False)
            after: Counter[str] = zero_messages() - before
            gathered = sum(max(sizes) for name, *sizes in ledger.lines if name in GATHERS)
            answers.append({**after, "gathered": gathered, "parameters": engine.num_parameters})
    return answers


def peaks(cases: Sequence[Sequence[str]], threshold: int) -> list[dict[str, int]]:
    """The most elements of parameters that are whole at a time in two steps and an evaluation between them, and the bound."""
    answers = []
    spread = f"engine.deepspeed.zero_optimization.stage3_param_persistence_threshold={threshold}"
    for overrides in cases:
        with engine_of(Case(tuple(overrides), steps=2), 3, spread) as (engine, batches, _):
            from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Fetches

            parameters: list[Any] = list(engine.model.parameters())
            seen = [0]
            fetch = Fetches.fetch_sub_module

            def look(
                *arguments: Any, parameters: Any = parameters, seen: Any = seen, fetch: Any = fetch, **named: Any
            ) -> None:
                fetch(*arguments, **named)
                seen.append(sum(p.ds_numel for p in parameters if p.ds_status.name != "NOT_AVAILABLE"))

            with mock.patch.object(Fetches, "fetch_sub_module", look):
                for step, batch in enumerate(batches):
                    engine.step(step, batch, False)
                    with engine.inference() as model, torch.no_grad():
                        model(batch.inputs)
            scripts = [sum(p.ds_numel for p in script.parameters()) for script in engine.model.scripts]  # pyright: ignore[reportAttributeAccessIssue]
            kept = [p.ds_numel for p in parameters if p.ds_persist]
            found = {"peak": max(seen), "script": max(scripts), "persistent": sum(kept)}
            answers.append(found | {"all": engine.num_parameters, "looks": len(seen)})
    return answers


def ledgers(seeds: Sequence[int]) -> list[list[Any]]:
    """The messages of three steps of models, stages and routings that are drawn."""
    answers = []
    for seed in seeds:
        draw = random.Random(seed)
        overrides = [
            f"model.iterations={draw.choice((1, 2, 3))}",
            f"model.scripts={draw.choice((1, 2, 3))}",
            f"model.functions={draw.choice((1, 3, 4))}",
            f"model.execution={draw.choice(('dense', 'packed', 'auto'))}",
            f"model.body={draw.choice(('lines_of_code', 'branching', 'noted'))}",
            f"model.type_inference={draw.choice(('mlp', 'scattered'))}",
            f"train.recompute={draw.choice(('none', 'iteration', 'script'))}",
            f"train.accumulate={draw.choice((1, 4))}",
        ]
        frozen = tuple(draw.sample(["input", "head.cls", "scripts.0.embedding", "scripts.0.body"], draw.choice((0, 2))))
        case = Case(tuple(overrides), frozen=frozen, routing="drawn", seed=seed, steps=3)
        with engine_of(case, draw.choice((1, 2, 3))) as (engine, batches, _), Ledger() as ledger:
            for step, batch in enumerate(batches):
                engine.step(step, batch, False)
            answers.append(ledger.lines)
    return answers


def memory(cycles: int) -> list[list[int]]:
    """After each engine at stage 3 that has trained and is closed: this process's resident bytes, and models that are left."""
    sizes = []
    for _ in range(cycles):
        with engine_of(Case(steps=1), 3) as (engine, batches, _):
            engine.step(0, batches[0], False)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        gc.collect()
        left = sum(isinstance(thing, Interpreter) for thing in gc.get_objects())
        sizes.append([pages * 4096, left])
    return sizes
