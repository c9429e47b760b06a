"""What processes do in the tests beside it; each function is called in all of them, with JSON documents."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ni_framework import build_model
from ni_framework.checkpoint.shards import Piece, State
from ni_framework.contracts import Batch
from ni_framework.data.sampler import Order
from ni_framework.distributed.communicator import Team
from ni_framework.distributed.rendezvous import join
from ni_framework.engines.base import Step
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.model.compose import build_data
from ni_framework.recipe import Recipe
from tests.helpers.engine_cases import Case
from tests.helpers.plain_data_parallel import Plain


def team_size() -> int:
    """How many processes there are, as each of them sees it."""
    return int(team_here().sum(torch.ones(())))


def compare(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each case and stage, how far DeepSpeed is from the local engine and from plain torch, and how it divided."""
    return [found for document in documents for found in _compare(Case(**document))]


def team_here() -> Team:
    """The team that this process is in."""
    with tempfile.TemporaryDirectory() as folder:
        return join(Case().zero(Path(folder), 0).engine)


def _compare(case: Case) -> list[dict[str, Any]]:
    team = team_here()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain_recipe = case.recipe(folder)
        prepare = case.prepare(plain_recipe, team.size)
        of_stages = {stage: case.zero(folder, stage) for stage in case.stages}
        model = build_model(plain_recipe)
        prepare(model)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        plain = Plain(model, plain_recipe, case)
        plain_losses = [float(plain.step(batch)) for batch in shares(case, plain_recipe, team)]
        local_losses, local = _alone(case, folder, team)
        moved = max(_distances(model.state_dict(), start).values())
        answers = []
        for stage, recipe in of_stages.items():
            zero = ZeroEngine(recipe, team, case.make_optimizer, prepare)
            losses, messages, done = [], [], None
            for batch in shares(case, recipe, team):
                before = zero_messages().copy()
                done = zero.step(len(losses), batch, False)
                losses.append(float(done.values["loss"]))
                messages.append(dict(zero_messages() - before))
                if case.evaluate:
                    _evaluate(zero, case.evaluate, batch)
            answers.append(
                {
                    "stage": stage,
                    "ranks": int(team.sum(torch.ones(()))),
                    "moved": moved,
                    "plain losses": _furthest(losses, plain_losses),
                    "local losses": _furthest(losses, local_losses),
                    "plain weights": max(_distances(zero.weights(), model.state_dict()).values(), default=0.0),
                    "local weights": max(_distances(zero.weights(), local).values(), default=0.0),
                    "last loss": losses[-1],
                    "messages": messages[-1],
                    "iterations": _iterations(done),
                    "faults": faults_of(zero, stage, team),
                }
            )
            zero.close()
    return answers


def _alone(case: Case, folder: Path, team: Team) -> tuple[list[float], State]:
    """The local engine's losses and weights: the same parts of the same batches, by one process."""
    accumulate = max(case.recipe(folder).train.accumulate, team.size)
    recipe = case.recipe(folder, f"train.accumulate={accumulate}")
    model = build_model(recipe)
    case.prepare(recipe, team.size)(model)
    engine = LocalEngine(model, recipe, case.make_optimizer)
    losses = [
        float(engine.step(step, batch, False).values["loss"]) for step, batch in enumerate(shares(case, recipe, Team()))
    ]
    return losses, engine.weights()


def shares(case: Case, recipe: Recipe, team: Team) -> list[Batch]:
    """This process's share of each step's batch; the key of a sample is its place in the run."""
    train = build_data(recipe).open()["train"]
    order = Order(train, recipe.train.batch, recipe.seed, team.share(recipe.train.batch))
    return [order[step]._replace(key=order.positions(step)) for step in range(case.steps)]


def _evaluate(zero: ZeroEngine, iterations: int, batch: Batch) -> None:
    with zero.inference() as model, torch.no_grad():
        trained = model.iterations
        model.iterations = iterations
        model.eval()
        model(batch.inputs)
        model.iterations = trained


def _iterations(done: Step | None) -> int:
    """In how many iterations of the first script some element here halted, or was halted by its end."""
    assert done is not None
    halt_IBV = done.forward.passages[0].halt_IBV
    return 0 if halt_IBV is None else int((halt_IBV > 0).flatten(1).any(dim=1).sum())


def zero_messages() -> Any:
    """How many messages DeepSpeed has sent, by name."""
    import deepspeed

    return deepspeed.comm.comm.cdb.counts  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def _furthest(losses: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(losses, others, strict=True))


def _distances(state: State, whole: State) -> dict[str, float]:
    """The largest difference of each tensor, or of the piece of it that is here."""
    distances = {}
    for name, value in state.items():
        there = whole[name]
        assert isinstance(there, Tensor)
        if isinstance(value, Piece):
            assert tuple(there.shape) == tuple(value.shape), name
            there, value = there.flatten()[value.start : value.start + len(value.part_P)], value.part_P
        distances[name] = float((value - there).abs().max()) if value.numel() else 0.0
    return distances


def faults_of(zero: ZeroEngine, stage: int, team: Team) -> list[str]:
    """What is not divided as the stage has it, or not stored exactly once."""
    faults = []
    parameters = dict(zero.model.named_parameters())
    places: dict[str, list[tuple[int, int]]] = {}
    mine = {name: [v.start, len(v.part_P)] for name, v in zero.weights().items() if isinstance(v, Piece)}
    whole = {name for name, value in zero.weights().items() if isinstance(value, Tensor)}
    for gathered in team.gather(mine):
        for name, (start, length) in gathered.items():
            places.setdefault(name, []).append((start, length))
    whole = set(team.gather(sorted(whole))[0])
    faults += [f"{name}: is not stored" for name in zero.model.state_dict() if name not in places and name not in whole]
    for name, parameter in parameters.items():
        number = math.prod(getattr(parameter, "ds_shape", parameter.shape))
        end = 0
        for start, length in sorted(places.get(name, [])):
            if start != end:
                faults.append(f"{name}: what follows {end} begins at {start}")
            end = start + length
        if end != number and name not in whole:
            faults.append(f"{name}: {end} of {number} elements are stored")
        if stage == 3:
            faults += _undivided(name, parameter, -(-number // team.size))
    if stage >= 1 and team.size > 1:
        own, total = (
            sum(f.length for f in zero.parameters.fragments),
            sum(math.prod(f.shape) for f in {f.name: f for f in zero.parameters.fragments}.values()),
        )
        if own >= total and total > 100:
            faults.append(f"all {total} elements are updated here")
    return faults


def _undivided(name: str, parameter: Any, share: int) -> list[str]:
    """What is wrong with a parameter that should lie in equal shares between two steps at stage 3."""
    if parameter.ds_status.name != "NOT_AVAILABLE" or parameter.ds_persist or (share and parameter.numel()):
        return [f"{name}: is {parameter.ds_status.name} with {parameter.numel()} elements"]
    length = parameter.ds_tensor.ds_numel
    return [] if length == share else [f"{name}: {length} elements lie here, and not {share}"]


def refusal() -> str:
    """What is said where two scripts hold the same module at stage 3."""
    team, case = team_here(), Case(("model.scripts=2",), tied=True)
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.zero(Path(folder), 3)
        try:
            ZeroEngine(recipe, team, case.make_optimizer, case.prepare(recipe, team.size))
        except RunError as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"
