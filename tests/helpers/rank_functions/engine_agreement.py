"""Compares engines; each function is called on all ranks, with JSON documents."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ni_framework import build_model
from ni_framework.checkpoint.shards import ShardedState, TensorShard
from ni_framework.contracts import Batch
from ni_framework.data.sampler import EpochSampler
from ni_framework.distributed.communicator import Communicator
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.base import StepResult
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.model.compose import build_data
from ni_framework.recipe import Recipe
from tests.helpers.engine_cases import EngineCase
from tests.helpers.plain_data_parallel import PlainDataParallel


def count_ranks() -> int:
    """Returns the number of ranks, by an all-reduce."""
    return int(join_communicator().all_reduce_sum(torch.ones(())))


def compare_engines(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each case and stage how far DeepSpeed is from the local engine and from plain torch, and how it sharded."""
    return [comparison for document in documents for comparison in _compare_case(EngineCase(**document))]


def join_communicator() -> Communicator:
    """Returns the communicator of this process."""
    with tempfile.TemporaryDirectory() as folder:
        return init_process_group(EngineCase().zero_recipe(Path(folder), 0).engine)


def _compare_case(case: EngineCase) -> list[dict[str, Any]]:
    comm = join_communicator()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain_recipe = case.recipe(folder)
        prepare = case.prepare(plain_recipe, comm.world_size)
        stage_recipes = {stage: case.zero_recipe(folder, stage) for stage in case.stages}
        model = build_model(plain_recipe)
        prepare(model)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        plain = PlainDataParallel(model, plain_recipe, case)
        plain_losses = [float(plain.step(batch)) for batch in local_batches(case, plain_recipe, comm)]
        local_losses, local = _train_locally(case, folder, comm)
        weight_change = max(_max_differences(model.state_dict(), start).values())
        comparisons = []
        for stage, recipe in stage_recipes.items():
            zero = ZeroEngine(recipe, comm, case.make_optimizer, prepare)
            losses, messages, result = [], [], None
            for batch in local_batches(case, recipe, comm):
                before = deepspeed_message_counts().copy()
                result = zero.step(len(losses), batch, False)
                losses.append(float(result.values["loss"]))
                messages.append(dict(deepspeed_message_counts() - before))
                if case.eval_iterations:
                    _evaluate_with_iterations(zero, case.eval_iterations, batch)
            comparisons.append(
                {
                    "stage": stage,
                    "ranks": int(comm.all_reduce_sum(torch.ones(()))),
                    "weight change": weight_change,
                    "plain losses": _max_loss_difference(losses, plain_losses),
                    "local losses": _max_loss_difference(losses, local_losses),
                    "plain weights": max(_max_differences(zero.weights(), model.state_dict()).values(), default=0.0),
                    "local weights": max(_max_differences(zero.weights(), local).values(), default=0.0),
                    "last loss": losses[-1],
                    "messages": messages[-1],
                    "iterations": _halting_iterations(result),
                    "faults": sharding_faults(zero, stage, comm),
                }
            )
            zero.close()
    return comparisons


def _train_locally(case: EngineCase, folder: Path, communicator: Communicator) -> tuple[list[float], ShardedState]:
    """Trains with the local engine on the same micro-batches, in one process; returns its losses and weights."""
    micro_batches = max(case.recipe(folder).train.micro_batches, communicator.world_size)
    recipe = case.recipe(folder, f"train.micro_batches={micro_batches}")
    model = build_model(recipe)
    case.prepare(recipe, communicator.world_size)(model)
    engine = LocalEngine(model, recipe, case.make_optimizer)
    losses = [
        float(engine.step(step, batch, False).values["loss"])
        for step, batch in enumerate(local_batches(case, recipe, Communicator()))
    ]
    return losses, engine.weights()


def local_batches(case: EngineCase, recipe: Recipe, communicator: Communicator) -> list[Batch]:
    """Returns this rank's share of each step's batch; the key of a sample is its position in the run.

    Args:
        case: What is trained.
        recipe: Its recipe.
        communicator: The rank.
    """
    train = build_data(recipe).open()["train"]
    sampler = EpochSampler(train, recipe.train.batch, recipe.seed, communicator.local_range(recipe.train.batch))
    return [sampler[step]._replace(key=sampler.positions(step)) for step in range(case.steps)]


def _evaluate_with_iterations(zero: ZeroEngine, iterations: int, batch: Batch) -> None:
    with zero.inference() as model, torch.no_grad():
        trained = model.iterations
        model.iterations = iterations
        model.eval()
        model(batch.inputs)
        model.iterations = trained


def _halting_iterations(result: StepResult | None) -> int:
    """Returns in how many iterations of the first script an element of this rank halted, at the latest at its end."""
    assert result is not None
    halt_IBV = result.output.script_outputs[0].halt_IBV
    return 0 if halt_IBV is None else int((halt_IBV > 0).flatten(1).any(dim=1).sum())


def deepspeed_message_counts() -> Any:
    """Returns how many messages DeepSpeed has sent, by name."""
    import deepspeed

    return deepspeed.comm.comm.cdb.counts  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def _max_loss_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(losses, others, strict=True))


def _max_differences(state: ShardedState, whole: ShardedState) -> dict[str, float]:
    """Returns the largest difference of each tensor, or of this rank's shard of it, from the whole tensors."""
    differences = {}
    for name, value in state.items():
        other = whole[name]
        assert isinstance(other, Tensor)
        if isinstance(value, TensorShard):
            assert tuple(other.shape) == tuple(value.shape), name
            other, value = other.flatten()[value.start : value.start + len(value.values_P)], value.values_P
        differences[name] = float((value - other).abs().max()) if value.numel() else 0.0
    return differences


def sharding_faults(zero: ZeroEngine, stage: int, communicator: Communicator) -> list[str]:
    """Returns what is not sharded as the stage requires, or not stored exactly once.

    Args:
        zero: The engine.
        stage: The ZeRO stage.
        communicator: The ranks.
    """
    parameters = dict(zero.model.named_parameters())
    extents: dict[str, list[tuple[int, int]]] = {}
    local_extents = {
        name: [v.start, len(v.values_P)] for name, v in zero.weights().items() if isinstance(v, TensorShard)
    }
    whole = {name for name, value in zero.weights().items() if isinstance(value, Tensor)}
    for gathered in communicator.all_gather_json(local_extents):
        for name, (start, length) in gathered.items():
            extents.setdefault(name, []).append((start, length))
    whole = set(communicator.all_gather_json(sorted(whole))[0])
    stored = extents.keys() | whole
    faults = [f"{name}: is not stored" for name in zero.model.state_dict() if name not in stored]
    for name, parameter in parameters.items():
        number = math.prod(getattr(parameter, "ds_shape", parameter.shape))
        end = 0
        for start, length in sorted(extents.get(name, [])):
            if start != end:
                faults.append(f"{name}: the shard after element {end} starts at {start}")
            end = start + length
        if end != number and name not in whole:
            faults.append(f"{name}: {end} of {number} elements are stored")
        if stage == 3:
            faults += _unsharded_faults(name, parameter, -(-number // communicator.world_size))
    if stage >= 1 and communicator.world_size > 1:
        fragments = zero.parameters.fragments
        updated = sum(fragment.length for fragment in fragments)
        shapes = {fragment.name: fragment.shape for fragment in fragments}
        total = sum(math.prod(shape) for shape in shapes.values())
        if updated >= total and total > 100:
            faults.append(f"all {total} elements are updated on this rank")
    return faults


def _unsharded_faults(name: str, parameter: Any, share: int) -> list[str]:
    """Returns what is wrong with a parameter that should be evenly sharded between two steps at stage 3."""
    if parameter.ds_status.name != "NOT_AVAILABLE" or parameter.ds_persist or (share and parameter.numel()):
        return [f"{name}: is {parameter.ds_status.name} with {parameter.numel()} elements"]
    length = parameter.ds_tensor.ds_numel
    return [] if length == share else [f"{name}: this rank has {length} elements, not {share}"]


def shared_module_error() -> str:
    """Returns the error if two scripts share a module at stage 3."""
    comm, case = join_communicator(), EngineCase(("model.scripts=2",), shares_type_inference=True)
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.zero_recipe(Path(folder), 3)
        try:
            ZeroEngine(recipe, comm, case.make_optimizer, case.prepare(recipe, comm.world_size))
        except RunError as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"
