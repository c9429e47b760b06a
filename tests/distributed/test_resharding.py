"""A run that is resumed with another engine, stage or world size continues as if nothing had changed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE, read_manifest
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.data.loader import iter_training_batches
from ni_framework.data.sampler import EpochSampler
from ni_framework.distributed.communicator import Communicator
from ni_framework.engines.preconditions import micro_batches_per_rank
from ni_framework.errors import RecipeError
from ni_framework.testing.workers.pool import WorkerPool
from tests.data.test_sampler import IndexSplit
from tests.helpers.engine_cases import SHARD_STAGE_2, SHARD_STAGE_3
from tests.helpers.small_recipe import load_small_recipe

RESHARD_STEPS, RESHARD_STEP = 5, 2
RESHARD_OVERRIDES = [
    "model.scripts=2",
    "model.router={use: quantised, size: 5, inner: stochastic_kernel}",
    "train.ema_decay=0.9",
    "train.micro_batches=4",
    "train.log_every=1",
    f"train.steps={RESHARD_STEPS}",
]
THRESHOLD = "engine.deepspeed.zero_optimization.stage3_param_persistence_threshold"
RESHARD_TOLERANCE = 1e-6
CHECKPOINT_PARTS = (WEIGHTS_FILE, EMA_WEIGHTS_FILE, TRAINING_STATE_FILE)
# The ZeRO stage, or None for the local engine, and the world size.
Layout = tuple[int | None, int]
LAYOUTS: list[Layout] = [(None, 1), *((stage, size) for stage in range(4) for size in (1, 2, 4))]


def layout_name(layout: Layout) -> str:
    return "local" if layout[0] is None else f"stage{layout[0]}x{layout[1]}"


def engine_overrides(layout: Layout) -> list[str]:
    """Returns the overrides for a layout's engine, which shards all that it can."""
    stage = layout[0]
    if stage is None:
        return ["engine.use=local"]
    sharding = {0: ["engine.deepspeed=null"], 3: [SHARD_STAGE_3]}.get(stage, [SHARD_STAGE_2, f"{THRESHOLD}=null"])
    return ["engine.use=zero", f"engine.stage={stage}", *sharding]


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with WorkerPool(1) as processes:
        yield processes


RunJobs = Callable[[list[tuple[Layout, dict[str, Any]]]], None]


@pytest.fixture(scope="session")
def run_jobs(one_rank: WorkerPool, two_ranks: WorkerPool, four_ranks: WorkerPool) -> RunJobs:
    """Runs jobs, each with its layout."""

    def run_jobs(jobs: list[tuple[Layout, dict[str, Any]]]) -> None:
        for processes in (one_rank, two_ranks, four_ranks):
            pool_jobs = [job for layout, job in jobs if layout[1] == processes.world_size]
            for start in range(0, len(pool_jobs), 20):
                processes.call("tests.helpers.rank_functions.resharding:run_all", pool_jobs[start : start + 20])

    return run_jobs


@pytest.fixture(scope="session")
def uninterrupted_runs(run_jobs: RunJobs, tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    """An uninterrupted run with each layout, with a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    runs = {layout: folder / layout_name(layout) for layout in LAYOUTS}
    run_jobs(
        [
            (
                layout,
                {"run": str(runs[layout]), "overrides": [*RESHARD_OVERRIDES, *engine_overrides(layout)], "every": 1},
            )
            for layout in LAYOUTS
        ]
    )
    return runs


def checkpoint_at(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step}"


def read_checkpoint_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Returns all tensors of a checkpoint, whole."""
    manifest = read_manifest(checkpoint)
    return {
        f"{part}/{name}": tensor
        for part in CHECKPOINT_PARTS
        for name, tensor in TensorReader(checkpoint, manifest, part).read_all().items()
    }


def read_metric_values(run: Path) -> dict[tuple[int, str], float]:
    """Returns the metrics of a run, by step and name."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): value for line in lines for name, value in line.items() if name != "seconds"}


def difference_scale(name: str, tensor: Tensor) -> float:
    """Returns the scale of differences: the largest value of the tensor for moments, which are small; at least 1 for others."""
    largest = tensor.abs().max().item()
    return max(largest, 1e-8) * 100 if "/exp_avg" in name else max(largest, 1.0)


def assert_runs_close_to(actual: Path, expected: Path, step: int = RESHARD_STEPS) -> None:
    """Asserts that two checkpoints have the same tensors, and their runs the same metrics, up to rounding.

    Args:
        actual: A run folder.
        expected: The run folder to compare with.
        step: The step of the checkpoints.
    """
    ours, theirs = (
        read_checkpoint_tensors(checkpoint_at(actual, step)),
        read_checkpoint_tensors(checkpoint_at(expected, step)),
    )
    assert {name: (t.shape, t.dtype) for name, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}
    for name, tensor in ours.items():
        difference = (tensor.double() - theirs[name].double()).abs().max().item()
        assert difference <= RESHARD_TOLERANCE * difference_scale(name, theirs[name]), name
    our_metrics, their_metrics = read_metric_values(actual), read_metric_values(expected)
    assert our_metrics.keys() == their_metrics.keys()
    for (at_step, name), value in our_metrics.items():
        # Routing is measured on the last micro-batch of each rank, which has other samples with another world size.
        if not name.startswith("routing/"):
            assert value == pytest.approx(their_metrics[at_step, name], rel=0, abs=RESHARD_TOLERANCE), (at_step, name)


def assert_runs_identical(actual: Path, expected: Path, step: int = RESHARD_STEPS) -> None:
    """Asserts that two checkpoints and the metrics of their runs are bit-identical.

    Args:
        actual: A run folder.
        expected: The run folder to compare with.
        step: The step of the checkpoints.
    """
    ours, theirs = (
        read_checkpoint_tensors(checkpoint_at(actual, step)),
        read_checkpoint_tensors(checkpoint_at(expected, step)),
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor.view(-1).view(torch.uint8), theirs[name].view(-1).view(torch.uint8)), name
    assert read_metric_values(actual) == read_metric_values(expected)


def test_every_layout_computes_the_same(uninterrupted_runs: dict[Layout, Path]) -> None:
    """The uninterrupted runs of all layouts have the same checkpoints at every step."""
    for layout in LAYOUTS:
        for step in range(1, RESHARD_STEPS + 1):
            assert_runs_close_to(uninterrupted_runs[layout], uninterrupted_runs[None, 1], step)


def layout_pairs(offsets: Sequence[int]) -> list[tuple[Layout, Layout]]:
    return [(LAYOUTS[i], LAYOUTS[(i + offset) % len(LAYOUTS)]) for offset in offsets for i in range(len(LAYOUTS))]


@pytest.mark.parametrize("offsets", [[3, 11], pytest.param(range(1, len(LAYOUTS)), marks=pytest.mark.soak)])
def test_reshard_between_layouts(
    run_jobs: RunJobs, uninterrupted_runs: dict[Layout, Path], tmp_path: Path, offsets: Sequence[int]
) -> None:
    resumed_runs = {(a, b): tmp_path / f"{layout_name(a)}-{layout_name(b)}" for a, b in layout_pairs(offsets)}
    run_jobs(
        [
            (
                new,
                {
                    "path": str(checkpoint_at(uninterrupted_runs[old], RESHARD_STEP)),
                    "run": str(resumed),
                    "overrides": engine_overrides(new),
                },
            )
            for (old, new), resumed in resumed_runs.items()
        ]
    )
    for resumed in resumed_runs.values():
        assert_runs_close_to(resumed, uninterrupted_runs[None, 1])


def test_resume_in_same_layout_is_bit_identical(
    run_jobs: RunJobs, uninterrupted_runs: dict[Layout, Path], tmp_path: Path
) -> None:
    """With the uninterrupted run, with and without data workers."""
    jobs: list[tuple[Layout, dict[str, Any]]] = []
    for layout in LAYOUTS:
        checkpoint = checkpoint_at(uninterrupted_runs[layout], RESHARD_STEP)
        jobs.append((layout, {"path": str(checkpoint), "run": str(tmp_path / layout_name(layout)), "overrides": []}))
    for layout, job in jobs:
        if layout in ((None, 1), (1, 2), (3, 2)):
            job["overrides"] = ["train.workers=2"]
    run_jobs(jobs)
    for layout in LAYOUTS:
        assert_runs_identical(tmp_path / layout_name(layout), uninterrupted_runs[layout])


BF16_LAYOUTS: list[Layout] = [(0, 2), (1, 2), (2, 2), (3, 2)]


@pytest.mark.parametrize("layouts", [BF16_LAYOUTS, pytest.param(LAYOUTS, marks=pytest.mark.soak)])
def test_bf16_resume_in_same_layout_is_repeatable(run_jobs: RunJobs, tmp_path: Path, layouts: list[Layout]) -> None:
    """A run that is resumed twice is bit-identical to the uninterrupted run."""
    runs = {layout: [tmp_path / f"{layout_name(layout)}-{number}" for number in range(3)] for layout in layouts}
    jobs = []
    for layout, (whole, first, second) in runs.items():
        settings = [*RESHARD_OVERRIDES, "train.precision=bf16", *engine_overrides(layout)]
        jobs.append((layout, {"run": str(whole), "overrides": settings, "every": 1}))
        jobs.append((layout, {"path": str(checkpoint_at(whole, RESHARD_STEP)), "run": str(first), "overrides": []}))
        jobs.append(
            (layout, {"path": str(checkpoint_at(first, RESHARD_STEP + 1)), "run": str(second), "overrides": []})
        )
    run_jobs(jobs)
    for whole, first, second in runs.values():
        assert_runs_identical(first, whole)
        assert_runs_identical(second, whole)


def test_reshard_from_four_ranks_to_two_and_back(
    run_jobs: RunJobs, uninterrupted_runs: dict[Layout, Path], tmp_path: Path
) -> None:
    """Batch, learning rates and losses stay the same over several resumes."""
    before = uninterrupted_runs[3, 4]
    for number, (layout, step) in enumerate([((3, 2), 1), ((1, 2), 2), ((2, 4), 3), ((0, 4), 4)]):
        after = tmp_path / str(number)
        run_jobs(
            [
                (
                    layout,
                    {
                        "path": str(checkpoint_at(before, step)),
                        "run": str(after),
                        "overrides": engine_overrides(layout),
                    },
                )
            ]
        )
        before = after
    assert_runs_close_to(before, uninterrupted_runs[None, 1])
    rates = {key: value for key, value in read_metric_values(before).items() if key[1] == "lr"}
    assert rates == {
        key: value for key, value in read_metric_values(uninterrupted_runs[None, 1]).items() if key[1] == "lr"
    }
    assert len(rates) == RESHARD_STEPS


WORLD_SIZES = (1, 2, 3, 4, 8)


@pytest.mark.parametrize("workers", [0, 1])
def test_order_of_samples_is_independent_of_the_world_size(workers: int) -> None:
    """If the world size changes during an epoch, all its samples still come once, and in the same order."""
    generator = random.Random(workers)
    split, batch = IndexSplit(), 24
    # The data set is smaller than a batch; these are 72 epochs of it.
    steps = 3 * len(split)
    expected = [sample for step in range(steps) for sample in keyed_samples(EpochSampler(split, batch, 5)[step])]
    for epoch in range(steps * batch // len(split)):
        samples = [sample for sample, _ in expected[epoch * len(split) : (epoch + 1) * len(split)]]
        assert sorted(samples) == list(range(len(split)))
    cuts = [0, *sorted(generator.sample(range(1, steps), 3)), steps]
    sizes = [generator.choice(WORLD_SIZES) for _ in cuts[1:]]
    actual = []
    for size, start, stop in zip(sizes, cuts, cuts[1:], strict=False):
        samplers = [EpochSampler(split, batch, 5, Communicator(rank, size).local_range(batch)) for rank in range(size)]
        loaders = [iter_training_batches(sampler, start, stop, workers) for sampler in samplers]
        for rank_batches in zip(*loaders, strict=True):
            actual += [sample for batch in rank_batches for sample in keyed_samples(batch)]
    assert actual == expected


@pytest.mark.parametrize("size", WORLD_SIZES)
def test_ranks_together_read_the_whole_batch(size: int) -> None:
    """Also if a batch crosses the end of an epoch."""
    split, batch_size = IndexSplit(), 24
    single = EpochSampler(split, batch_size, 5)
    ranges = [Communicator(rank, size).local_range(batch_size) for rank in range(size)]
    for step in range(3):
        parts = [EpochSampler(split, batch_size, 5, local_range)[step] for local_range in ranges]
        assert [pair for part in parts for pair in keyed_samples(part)] == keyed_samples(single[step])


def keyed_samples(batch: Any) -> list[tuple[int, int]]:
    """Returns each sample of a batch, with its random key for the model."""
    return list(zip(batch.inputs.tolist(), batch.key.tolist(), strict=True))


def test_world_size_that_cannot_split_the_batch_is_rejected(tmp_path: Path) -> None:
    """The error names the possible world sizes; the world size must not change the batch size."""
    recipe = load_small_recipe(tmp_path, "train.micro_batches=4")
    with pytest.raises(RecipeError) as caught:
        micro_batches_per_rank(recipe, 3)
    text = str(caught.value)
    assert "train.batch: 3 processes cannot share a batch of 8 in 4 micro-batches evenly" in text
    assert "use another batch size, or one of these numbers of processes: 1, 2, 4, 8" in text
    assert [micro_batches_per_rank(recipe, size) for size in (1, 2, 4, 8)] == [4, 2, 1, 1]


def test_small_weights_are_never_sharded(run_jobs: RunJobs, tmp_path: Path) -> None:
    """Stage 3 with DeepSpeed's default settings does not shard small parameters; such a run can be resumed too."""
    uninterrupted, resumed, layout = tmp_path / "uninterrupted", tmp_path / "resumed", (3, 2)
    overrides = [*RESHARD_OVERRIDES, "engine.use=zero", "engine.stage=3"]
    run_jobs([(layout, {"run": str(uninterrupted), "overrides": overrides, "every": 1})])
    checkpoint = checkpoint_at(uninterrupted, RESHARD_STEP)
    run_jobs([(layout, {"run": str(resumed), "path": str(checkpoint), "overrides": []})])
    expected = read_checkpoint_tensors(checkpoint_at(uninterrupted, RESHARD_STEPS))
    actual = read_checkpoint_tensors(checkpoint_at(resumed, RESHARD_STEPS))
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
