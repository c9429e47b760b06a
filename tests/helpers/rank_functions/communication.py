"""Measures what DeepSpeed sends and how much it gathers; each function is called on all ranks."""

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
from ni_framework.distributed.communicator import Communicator
from ni_framework.engines.deepspeed.comm_monitor import COLLECTIVES
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.model.interpreter import Interpreter
from tests.helpers.engine_cases import EngineCase
from tests.helpers.rank_functions.engine_agreement import deepspeed_message_counts, join_communicator, local_batches

GATHER_OPS = ("all_gather", "all_gather_coalesced", "all_gather_into_tensor")
# Steps after which DeepSpeed has recorded the order of modules.
WARMUP_STEPS = 2


@contextmanager
def open_engine(
    case: EngineCase, stage: int, *overrides: str
) -> Iterator[tuple[ZeroEngine, list[Batch], Communicator]]:
    """Yields an engine, this rank's batches, and the communicator.

    Args:
        case: What is trained.
        stage: The ZeRO stage.
        overrides: More changes of the recipe.
    """
    comm = join_communicator()
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.zero_recipe(Path(folder), stage, *overrides)
    engine = ZeroEngine(recipe, comm, case.make_optimizer, case.prepare(recipe, comm.world_size))
    try:
        yield engine, local_batches(case, recipe, comm), comm
    finally:
        engine.close()


class MessageRecorder:
    """Records the messages that DeepSpeed sends, in order: the operation, and the number of elements of each tensor."""

    def __init__(self) -> None:
        import deepspeed

        self.monitor: Any = deepspeed.comm.comm.cdb  # pyright: ignore[reportAttributeAccessIssue]
        self.backend, self.messages = self.monitor.backend, []

    def __enter__(self) -> MessageRecorder:
        self.monitor.backend = self
        return self

    def __exit__(self, *error: object) -> None:
        self.monitor.backend = self.backend

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.backend, name)
        if name not in COLLECTIVES:
            return operation

        def send(*arguments: Any, **named: Any) -> Any:
            tensors = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
            self.messages.append([name, *(value.numel() for value in tensors)])
            return operation(*arguments, **named)

        return send


def count_messages(iterations: Sequence[int], stage: int, overrides: Sequence[str]) -> list[dict[str, int]]:
    """Returns the messages of one step by name, and how many elements were gathered, for each number of iterations.

    Args:
        iterations: The numbers of iterations.
        stage: The ZeRO stage.
        overrides: More changes of the recipe.
    """
    results = []
    for number in iterations:
        case = EngineCase((*overrides, f"model.iterations={number}"), steps=WARMUP_STEPS + 1)
        with open_engine(case, stage) as (engine, batches, _):
            for step, batch in enumerate(batches[:WARMUP_STEPS]):
                engine.step(step, batch, False)
            before = deepspeed_message_counts().copy()
            with MessageRecorder() as recorder:
                engine.step(WARMUP_STEPS, batches[WARMUP_STEPS], False)
            after: Counter[str] = deepspeed_message_counts() - before
            gathered = sum(max(sizes) for name, *sizes in recorder.messages if name in GATHER_OPS)
            results.append({**after, "gathered": gathered, "parameters": engine.num_parameters})
    return results


def peak_gathered_numel(cases: Sequence[Sequence[str]], threshold: int) -> list[dict[str, int]]:
    """Measures the most parameter elements that are gathered at a time, in two steps with an evaluation after each.

    Args:
        cases: The changes of the recipe of each case.
        threshold: Parameters with fewer elements stay gathered.

    Returns:
        For each case the peak, the elements of the largest script, of the persistent parameters, and of all parameters.
    """
    results = []
    sharding = f"engine.deepspeed.zero_optimization.stage3_param_persistence_threshold={threshold}"
    for overrides in cases:
        with open_engine(EngineCase(tuple(overrides), steps=2), 3, sharding) as (engine, batches, _):
            from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

            parameters: list[Any] = list(engine.model.parameters())
            gathered = [0]
            fetch = PartitionedParameterCoordinator.fetch_sub_module

            def fetch_and_count(
                *arguments: Any,
                parameters: Any = parameters,
                gathered: Any = gathered,
                fetch: Any = fetch,
                **named: Any,
            ) -> None:
                fetch(*arguments, **named)
                gathered.append(sum(p.ds_numel for p in parameters if p.ds_status.name != "NOT_AVAILABLE"))

            with mock.patch.object(PartitionedParameterCoordinator, "fetch_sub_module", fetch_and_count):
                for step, batch in enumerate(batches):
                    engine.step(step, batch, False)
                    with engine.inference() as model, torch.no_grad():
                        model(batch.inputs)
            scripts = [sum(p.ds_numel for p in script.parameters()) for script in engine.model.scripts]  # pyright: ignore[reportAttributeAccessIssue]
            persistent = [p.ds_numel for p in parameters if p.ds_persist]
            result = {"peak": max(gathered), "script": max(scripts), "persistent": sum(persistent)}
            results.append(result | {"all": engine.num_parameters})
    return results


def record_messages(seeds: Sequence[int]) -> list[list[Any]]:
    """Returns the messages of three steps, for models, stages and routings that are drawn from each seed."""
    results = []
    for seed in seeds:
        draw = random.Random(seed)
        overrides = [
            f"model.iterations={draw.choice((1, 2, 3))}",
            f"model.scripts={draw.choice((1, 2, 3))}",
            f"model.functions={draw.choice((1, 3, 4))}",
            f"model.execution={draw.choice(('dense', 'packed', 'auto'))}",
            f"model.body={draw.choice(('lines_of_code', 'branching', 'noted'))}",
            f"model.type_inference={draw.choice(('mlp', 'scattered'))}",
            f"train.activation_checkpointing={draw.choice(('none', 'iteration', 'script'))}",
            f"train.micro_batches={draw.choice((1, 4))}",
        ]
        frozen = tuple(draw.sample(["input", "head.cls", "scripts.0.embedding", "scripts.0.body"], draw.choice((0, 2))))
        case = EngineCase(tuple(overrides), frozen=frozen, routing="drawn", seed=seed, steps=3)
        with open_engine(case, draw.choice((1, 2, 3))) as (engine, batches, _), MessageRecorder() as recorder:
            for step, batch in enumerate(batches):
                engine.step(step, batch, False)
            results.append(recorder.messages)
    return results


def memory_after_close(cycles: int) -> list[list[int]]:
    """Trains and closes engines at stage 3; returns the resident bytes and the number of living models after each."""
    sizes = []
    for _ in range(cycles):
        with open_engine(EngineCase(steps=1), 3) as (engine, batches, _):
            engine.step(0, batches[0], False)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        gc.collect()
        models = sum(isinstance(item, Interpreter) for item in gc.get_objects())
        sizes.append([pages * 4096, models])
    return sizes
