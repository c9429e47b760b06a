"""Weights and optimizer state on NVMe: training is the same as in memory, and checkpoints are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ni_framework.checkpoint.manifest import TRAINING_STATE_FILE, WEIGHTS_FILE, read_manifest
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.testing.workers.pool import WorkerPool
from tests.distributed.test_resharding import (
    RESHARD_OVERRIDES,
    checkpoint_at,
    read_checkpoint_tensors,
    read_metric_values,
)

NVME_STEPS, NVME_RESUME_STEP = 5, 2
NVME_TOLERANCE = 1e-6
# Large enough for several groups on two ranks: DeepSpeed moves nothing below a MiB per rank to the disk.
LARGE_MODEL = ["model.width=128", "model.body.heads=4", "model.body.key=32", "model.body.hidden=4200"]
IN_MEMORY_OVERRIDES = [*RESHARD_OVERRIDES, *LARGE_MODEL, "train.evaluate_every=3", "engine.use=zero", "engine.stage=3"]
OFFLOAD_VARIANTS = {
    "all on the disk": ("{}", "{max_in_cpu: 0}"),
    "weights in memory": ("{}", "{max_in_cpu: 1000000000}"),
    "two groups at once": ("{pipeline_read: true, pipeline_write: true}", "{max_in_cpu: 0}"),
    "fast start": ("{fast_init: true}", "{max_in_cpu: 0}"),
}


def is_aio_compiled() -> bool:
    """Returns whether DeepSpeed's async_io extension is compiled, without compiling it."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return any(root.glob("**/async_io.so"))


needs_compiled_aio = pytest.mark.skipif(
    not is_aio_compiled(),
    reason="DeepSpeed's async_io is not compiled here: install libaio-dev, and call AsyncIOBuilder().load()",
)
POOLS_AND_AIO = [
    pytest.param((2, False), id="2 fake"),
    pytest.param((1, True), id="1", marks=needs_compiled_aio),
    pytest.param((2, True), id="2", marks=needs_compiled_aio),
]


@pytest.fixture(params=POOLS_AND_AIO, scope="module")
def pool_and_aio(request: pytest.FixtureRequest) -> Iterator[tuple[WorkerPool, bool]]:
    """A new pool of ranks, and whether they use DeepSpeed's compiled extension."""
    world_size, real = request.param
    with WorkerPool(world_size) as pool:
        yield pool, real


def nvme_overrides(folder: Path, variant: str = "all on the disk") -> list[str]:
    optimizer, weights = OFFLOAD_VARIANTS[variant]
    settings = f"{{sub_group_size: 600000, offload_optimizer: {optimizer}, offload_param: {weights}}}"
    return [
        *IN_MEMORY_OVERRIDES,
        "engine.offload=nvme",
        f"engine.nvme_dir={folder / 'disk'}",
        f"engine.deepspeed.zero_optimization={settings}",
    ]


def test_nvme_run_equals_in_memory_run(pool_and_aio: tuple[WorkerPool, bool], tmp_path: Path) -> None:
    """Checkpoints have the exact state, and resuming from them gives the uninterrupted run, on NVMe and in memory."""
    processes, real = pool_and_aio
    plain, run = tmp_path / "plain", tmp_path / "run"
    jobs = [
        {"run": str(plain), "overrides": IN_MEMORY_OVERRIDES, "every": 1},
        {"run": str(run), "overrides": nvme_overrides(tmp_path), "every": 1},
    ]
    for _, counts in processes.call("tests.helpers.rank_functions.nvme:run_jobs_on_nvme", jobs, real):
        assert counts["groups"] >= 2, counts
        assert counts["parameters"] >= 4, counts
        assert counts["at once"] == 1, counts
    assert_runs_close(run, plain)
    assert_checkpoints_match_state(run, processes.world_size)

    resumed, off = tmp_path / "resumed", tmp_path / "off"
    jobs = [
        {"run": str(resumed), "path": str(checkpoint_at(run, NVME_RESUME_STEP)), "overrides": []},
        {
            "run": str(off),
            "path": str(checkpoint_at(run, NVME_RESUME_STEP)),
            "overrides": ["engine.offload=none", "engine.nvme_dir=null", "engine.deepspeed=null"],
        },
        {
            "run": str(tmp_path / "from"),
            "path": str(checkpoint_at(plain, NVME_RESUME_STEP)),
            "overrides": nvme_overrides(tmp_path)[len(IN_MEMORY_OVERRIDES) :],
        },
    ]
    processes.call("tests.helpers.rank_functions.nvme:run_jobs_on_nvme", jobs, real)
    expected, actual = (
        read_checkpoint_tensors(checkpoint_at(run, NVME_STEPS)),
        read_checkpoint_tensors(checkpoint_at(resumed, NVME_STEPS)),
    )
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert_runs_close(off, plain)
    assert_runs_close(tmp_path / "from", plain)
    assert os.listdir(tmp_path / "disk") == []


@pytest.mark.parametrize(
    "variant",
    [
        "weights in memory",
        pytest.param("two groups at once", marks=pytest.mark.soak),
        pytest.param("fast start", marks=pytest.mark.soak),
    ],
)
def test_offload_variants(two_ranks: WorkerPool, variant: str, tmp_path: Path) -> None:
    plain, run = tmp_path / "plain", tmp_path / "run"
    jobs = [
        {"run": str(plain), "overrides": IN_MEMORY_OVERRIDES, "every": 1},
        {"run": str(run), "overrides": nvme_overrides(tmp_path, variant), "every": 1},
    ]
    for _, counts in two_ranks.call("tests.helpers.rank_functions.nvme:run_jobs_on_nvme", jobs):
        assert counts["groups"] >= 2, counts
        assert (counts["parameters"] == 0) == (variant == "weights in memory"), counts
    assert_runs_close(run, plain)
    assert_checkpoints_match_state(run, 2)
    two_ranks.call(
        "tests.helpers.rank_functions.nvme:run_jobs_on_nvme",
        [{"run": str(tmp_path / "resumed"), "path": str(checkpoint_at(run, NVME_RESUME_STEP)), "overrides": []}],
    )
    expected, actual = (
        read_checkpoint_tensors(checkpoint_at(run, NVME_STEPS)),
        read_checkpoint_tensors(checkpoint_at(tmp_path / "resumed", NVME_STEPS)),
    )
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []


def test_frozen_weights_on_nvme(pool_and_aio: tuple[WorkerPool, bool], tmp_path: Path) -> None:
    processes, real = pool_and_aio
    for result in processes.call(
        "tests.helpers.rank_functions.nvme:reload_frozen_model", str(tmp_path / "saved"), nvme_overrides(tmp_path), real
    ):
        assert result.pop("frozen on disk") >= 2
        assert result.pop("differ before") > 10
        assert result == {"differ": [], "wrong": []}
    assert os.listdir(tmp_path / "disk") == []


def assert_runs_close(run: Path, other: Path) -> None:
    """Asserts that two runs ended alike, up to rounding."""
    ours, theirs = (
        read_checkpoint_tensors(checkpoint_at(run, NVME_STEPS)),
        read_checkpoint_tensors(checkpoint_at(other, NVME_STEPS)),
    )
    assert ours.keys() == theirs.keys()
    assert {
        name for name in ours if (ours[name].double() - theirs[name].double()).abs().max() > NVME_TOLERANCE
    } == set()
    actual, expected = read_metric_values(run), read_metric_values(other)
    shared = [key for key in actual if key in expected and "second" not in key[1] and isinstance(actual[key], float)]
    assert any("accuracy" in name for _, name in shared), shared
    assert {key: actual[key] for key in shared} == pytest.approx({key: expected[key] for key in shared}, abs=1e-5)


def assert_checkpoints_match_state(run: Path, world_size: int) -> None:
    """Asserts that each checkpoint is bit-identical with the weights and moments that DeepSpeed's own functions return."""
    for step in range(1, NVME_STEPS + 1):
        manifest, folder = read_manifest(checkpoint_at(run, step)), checkpoint_at(run, step)
        weights, training = (
            TensorReader(folder, manifest, WEIGHTS_FILE),
            TensorReader(folder, manifest, TRAINING_STATE_FILE).with_prefix("engine/optimizer"),
        )
        shards = [torch.load(run / f"state-{step}-{rank}") for rank in range(world_size)]
        assert len(shards[0]) > 30
        for key in shards[0]:
            kind, _, name = key.partition("/")
            whole = (weights.read(name) if kind == "weight" else training.read(key)).flatten()
            state = torch.cat([shard[key] for shard in shards])[: len(whole)]
            assert torch.equal(whole, state), key
