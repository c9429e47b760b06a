"""A run moves between engines, stages and numbers of processes, and goes on as if it had stayed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.checkpoint.manifest import AVERAGE, TRAINING, WEIGHTS, read_manifest
from ni_framework.checkpoint.reader import Stored
from ni_framework.data.loader import batches
from ni_framework.data.sampler import Order
from ni_framework.distributed.communicator import Team
from ni_framework.engines.base import parts_of
from ni_framework.errors import RecipeError
from ni_framework.testing.workers.pool import Processes
from tests.data.test_sampler import Numbers
from tests.helpers.engine_cases import SPREAD, SPREAD_2
from tests.helpers.small_recipe import small_recipe

STEPS, CUT = 5, 2
COMMON = [
    "model.scripts=2",
    "model.router={use: quantised, size: 5, inner: stochastic_kernel}",
    "train.average=0.9",
    "train.accumulate=4",
    "train.log_every=1",
    f"train.steps={STEPS}",
]
THRESHOLD = "engine.deepspeed.zero_optimization.stage3_param_persistence_threshold"
ROUNDING = 1e-6
PARTS = (WEIGHTS, AVERAGE, TRAINING)
Place = tuple[int | None, int]  # a stage, or None for the local engine, and the number of processes
PLACES: list[Place] = [(None, 1), *((stage, size) for stage in range(4) for size in (1, 2, 4))]


def named(place: Place) -> str:
    return "local" if place[0] is None else f"stage{place[0]}x{place[1]}"


def engine_of(place: Place) -> list[str]:
    """The engine, with everything divided that it can divide."""
    stage = place[0]
    if stage is None:
        return ["engine.use=local"]
    spread = {0: ["engine.deepspeed=null"], 3: [SPREAD]}.get(stage, [SPREAD_2, f"{THRESHOLD}=null"])
    return ["engine.use=zero", f"engine.stage={stage}", *spread]


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Processes(1) as processes:
        yield processes


Run = Callable[[list[tuple[Place, dict[str, Any]]]], None]


@pytest.fixture(scope="session")
def run(one: Processes, two: Processes, four: Processes) -> Run:
    """Carries out jobs, each in its place."""

    def run_jobs(jobs: list[tuple[Place, dict[str, Any]]]) -> None:
        for processes in (one, two, four):
            own = [job for place, job in jobs if place[1] == processes.number]
            for start in range(0, len(own), 20):
                processes.call("tests.helpers.rank_functions.resharding:run_all", own[start : start + 20])

    return run_jobs


@pytest.fixture(scope="session")
def stayed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[Place, Path]:
    """A run in each place, from its beginning to its end, with a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("stayed")
    runs = {place: folder / named(place) for place in PLACES}
    run([(place, {"run": str(runs[place]), "overrides": [*COMMON, *engine_of(place)], "every": 1}) for place in PLACES])
    return runs


def at(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step}"


def contents(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, whole."""
    manifest = read_manifest(checkpoint)
    return {
        f"{part}/{name}": tensor for part in PARTS for name, tensor in Stored(checkpoint, manifest, part).all().items()
    }


def lines(run: Path) -> dict[tuple[int, str], float]:
    """What a run has written down of its metrics, by step and name."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): value for line in found for name, value in line.items() if name != "seconds"}


def scale_of(name: str, tensor: Tensor) -> float:
    """What a difference is measured by: moments are small, and are measured by the largest of their tensor."""
    largest = tensor.abs().max().item()
    return max(largest, 1e-8) * 100 if "/exp_avg" in name else max(largest, 1.0)


def check_close(found: Path, wanted: Path, step: int = STEPS) -> None:
    """Two checkpoints hold the same tensors, and their runs have the same metrics, but for rounding."""
    ours, theirs = contents(at(found, step)), contents(at(wanted, step))
    assert {name: (t.shape, t.dtype) for name, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}
    for name, tensor in ours.items():
        difference = (tensor.double() - theirs[name].double()).abs().max().item()
        assert difference <= ROUNDING * scale_of(name, theirs[name]), name
    mine, other = lines(found), lines(wanted)
    assert mine.keys() == other.keys()
    for (at_step, name), value in mine.items():
        if not name.startswith("routing/"):  # of each process's last part, so of other samples
            assert value == pytest.approx(other[at_step, name], rel=0, abs=ROUNDING), (at_step, name)


def check_same(found: Path, wanted: Path, step: int = STEPS) -> None:
    """Not one bit differs, in what is stored and in what was measured."""
    ours, theirs = contents(at(found, step)), contents(at(wanted, step))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor.view(-1).view(torch.uint8), theirs[name].view(-1).view(torch.uint8)), name
    assert lines(found) == lines(wanted)


def test_every_place_computes_the_same(stayed: dict[Place, Path]) -> None:
    """Uninterrupted runs, and the checkpoints at every step of them."""
    for place in PLACES:
        for step in range(1, STEPS + 1):
            check_close(stayed[place], stayed[None, 1], step)


def pairs(offsets: Sequence[int]) -> list[tuple[Place, Place]]:
    return [(PLACES[i], PLACES[(i + offset) % len(PLACES)]) for offset in offsets for i in range(len(PLACES))]


@pytest.mark.parametrize("offsets", [[3, 11], pytest.param(range(1, len(PLACES)), marks=pytest.mark.soak)])
def test_from_any_place_to_any_other(
    run: Run, stayed: dict[Place, Path], tmp_path: Path, offsets: Sequence[int]
) -> None:
    moves = {(a, b): tmp_path / f"{named(a)}-{named(b)}" for a, b in pairs(offsets)}
    run(
        [
            (there, {"path": str(at(stayed[here], CUT)), "run": str(moved), "overrides": engine_of(there)})
            for (here, there), moved in moves.items()
        ]
    )
    for moved in moves.values():
        check_close(moved, stayed[None, 1])


def test_to_the_same_place(run: Run, stayed: dict[Place, Path], tmp_path: Path) -> None:
    """Not one bit differs from a run that was never interrupted, whoever prepares its batches."""
    moved = {place: tmp_path / named(place) for place in PLACES}
    jobs = [(p, {"path": str(at(stayed[p], CUT)), "run": str(moved[p]), "overrides": []}) for p in PLACES]
    for place, job in jobs:
        if place in ((None, 1), (1, 2), (3, 2)):
            job["overrides"] = ["train.workers=2"]
    run(jobs)
    for place in PLACES:
        check_same(moved[place], stayed[place])


SOME: list[Place] = [(0, 2), (1, 2), (2, 2), (3, 2)]


@pytest.mark.parametrize("places", [SOME, pytest.param(PLACES, marks=pytest.mark.soak)])
def test_in_bf16_to_the_same_place_twice(run: Run, tmp_path: Path, places: list[Place]) -> None:
    """A resume of a resume: not one bit differs."""
    runs = {place: [tmp_path / f"{named(place)}-{number}" for number in range(3)] for place in places}
    jobs = []
    for place, (whole, first, second) in runs.items():
        settings = [*COMMON, "train.precision=bf16", *engine_of(place)]
        jobs.append((place, {"run": str(whole), "overrides": settings, "every": 1}))
        jobs.append((place, {"path": str(at(whole, CUT)), "run": str(first), "overrides": []}))
        jobs.append((place, {"path": str(at(first, CUT + 1)), "run": str(second), "overrides": []}))
    run(jobs)
    for whole, first, second in runs.values():
        check_same(first, whole)
        check_same(second, whole)


def test_from_four_processes_to_two_and_back(run: Run, stayed: dict[Place, Path], tmp_path: Path) -> None:
    """A resume of a resume; batch, learning rate and losses stay."""
    before = stayed[3, 4]
    for number, (place, step) in enumerate([((3, 2), 1), ((1, 2), 2), ((2, 4), 3), ((0, 4), 4)]):
        after = tmp_path / str(number)
        run([(place, {"path": str(at(before, step)), "run": str(after), "overrides": engine_of(place)})])
        before = after
    check_close(before, stayed[None, 1])
    rates = {key: value for key, value in lines(before).items() if key[1] == "lr"}
    assert rates == {key: value for key, value in lines(stayed[None, 1]).items() if key[1] == "lr"}
    assert len(rates) == STEPS


SIZES = (1, 2, 3, 4, 8)


@pytest.mark.parametrize("workers", [0, 1])
def test_samples(workers: int) -> None:
    """In any number of processes, which changes in the middle, all samples of an epoch come once and in one order."""
    generator = random.Random(workers)
    split, batch = Numbers(), 24
    steps = 3 * len(split)  # 24 epochs of a data set that is smaller than a batch
    wanted = [sample for step in range(steps) for sample in whole(Order(split, batch, 5)[step])]
    for epoch in range(steps * batch // len(split)):
        samples = [sample for sample, _ in wanted[epoch * len(split) : (epoch + 1) * len(split)]]
        assert sorted(samples) == list(range(len(split)))
    cuts = [0, *sorted(generator.sample(range(1, steps), 3)), steps]
    sizes = [generator.choice(SIZES) for _ in cuts[1:]]
    found = []
    for size, start, stop in zip(sizes, cuts, cuts[1:], strict=False):
        orders = [Order(split, batch, 5, Team(rank, size).share(batch)) for rank in range(size)]
        for together in zip(*(batches(order, start, stop, workers) for order in orders), strict=True):
            found += [sample for part in together for sample in whole(part)]
    assert found == wanted


@pytest.mark.parametrize("size", SIZES)
def test_samples_of_three_epochs(size: int) -> None:
    """Batches do not divide an epoch."""
    split, batch = Numbers(), 24
    alone = Order(split, batch, 5)
    for step in range(3):
        parts = [Order(split, batch, 5, Team(rank, size).share(batch))[step] for rank in range(size)]
        assert [pair for part in parts for pair in whole(part)] == whole(alone[step])


def whole(batch: Any) -> list[tuple[int, int]]:
    """Each sample of a batch, and its key for the model's noise."""
    return list(zip(batch.inputs.tolist(), batch.key.tolist(), strict=True))


def test_processes_that_cannot_share_a_batch(tmp_path: Path) -> None:
    """Refused, with the numbers that can; another number of processes must not mean another batch."""
    recipe = small_recipe(tmp_path, "train.accumulate=4")
    with pytest.raises(RecipeError) as caught:
        parts_of(recipe, 3)
    text = str(caught.value)
    assert "train.batch: 3 processes cannot share a batch of 8 in 4 parts evenly" in text
    assert "use another batch, or as many processes as one of 1, 2, 4, 8" in text
    assert [parts_of(recipe, size) for size in (1, 2, 4, 8)] == [4, 2, 1, 1]


def test_small_weights_that_are_never_divided(run: Run, tmp_path: Path) -> None:
    """Stage 3 as it is without other settings goes on too, with all that it does not divide."""
    stay, place = tmp_path / "stay", (3, 2)
    bare = [*COMMON, "engine.use=zero", "engine.stage=3"]
    run([(place, {"run": str(stay), "overrides": bare, "every": 1})])
    run([(place, {"run": str(tmp_path / "on"), "path": str(at(stay, CUT)), "overrides": []})])
    stayed, gone_on = contents(at(stay, STEPS)), contents(at(tmp_path / "on", STEPS))
    assert [name for name in stayed if not torch.equal(stayed[name], gone_on[name])] == []
