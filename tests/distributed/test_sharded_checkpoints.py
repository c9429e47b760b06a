"""Checkpoints of several ranks: each rank writes its shards, the folder appears complete, and any world size can read it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ni_framework import load_model
from ni_framework.checkpoint.manifest import (
    EMA_WEIGHTS_FILE,
    MANIFEST_FILE,
    TRAINING_STATE_FILE,
    WEIGHTS_FILE,
    check_files,
    encode_manifest,
    read_manifest,
    shard_files,
)
from ni_framework.checkpoint.run_dir import find_latest_valid, list_checkpoints, read_latest
from ni_framework.checkpoint.verify import verify
from ni_framework.errors import CheckpointError
from ni_framework.evaluation.evaluate import evaluate_model
from ni_framework.model.compose import build_data
from ni_framework.testing.workers.pool import WorkerPool
from tests.cli.conftest import RunNi, ni
from tests.helpers.engine_cases import SHARD_STAGE_2, SHARD_STAGE_3
from tests.helpers.small_recipe import load_small_recipe

# `ni` is a fixture.
__all__ = ["ni"]

RESHARDING = "tests.helpers.rank_functions.resharding"
WIDE_MODEL = ["model.width=48", "model.functions=4", "train.ema_decay=0.9", "train.steps=2", "train.micro_batches=4"]
STAGE_OVERRIDES = {0: [], 1: [SHARD_STAGE_2], 2: [SHARD_STAGE_2], 3: [SHARD_STAGE_3]}


def stage_overrides(stage: int) -> list[str]:
    return ["engine.use=zero", f"engine.stage={stage}", *STAGE_OVERRIDES[stage]]


@pytest.fixture(scope="module")
def sharded_runs(
    two_ranks: WorkerPool, four_ranks: WorkerPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, int], Path]:
    """Runs with a checkpoint at each of two steps, by stage and world size."""
    folder = tmp_path_factory.mktemp("written")
    runs = {}
    for processes, stages in ((two_ranks, range(4)), (four_ranks, (0, 2, 3))):
        for stage in stages:
            runs[stage, processes.world_size] = run = folder / f"{stage}x{processes.world_size}"
            processes.call(f"{RESHARDING}:train_small", str(run), [*WIDE_MODEL, *stage_overrides(stage)], 1)
    return runs


@pytest.fixture
def run_copy(sharded_runs: dict[tuple[int, int], Path], tmp_path: Path) -> Path:
    """A copy, to be damaged, of the run of four ranks at stage 3."""
    return Path(shutil.copytree(sharded_runs[3, 4], tmp_path / "run"))


def test_every_rank_writes_its_own_shard(sharded_runs: dict[tuple[int, int], Path]) -> None:
    """All shards have about the same size, and contain each element of each tensor exactly once."""
    for (stage, world_size), run in sharded_runs.items():
        folder = list_checkpoints(run)[-1]
        manifest = check_files(folder)
        rank_bytes: Counter[int] = Counter()
        for file_name in (WEIGHTS_FILE, EMA_WEIGHTS_FILE, TRAINING_STATE_FILE):
            shards = shard_files(manifest.files, file_name)
            assert len(shards) == world_size
            counts: dict[str, torch.Tensor] = {}
            for rank, shard in enumerate(shards):
                with safe_open(str(folder / shard), "pt") as file:
                    for key in file.keys():  # noqa: SIM118  safe_open is not a mapping
                        tensor = file.get_tensor(key)
                        rank_bytes[rank] += tensor.nbytes
                        name, at, start = key.rpartition("@")
                        shape = manifest.shard_shapes[file_name].get(name) if at else None
                        name, first = (key, 0) if shape is None else (name, int(start))
                        count = counts.setdefault(name, torch.zeros(tensor.shape if shape is None else shape).flatten())
                        count[first : first + tensor.numel()] += 1
            assert all(bool((count == 1).all()) for count in counts.values())
        for rank in range(world_size):
            mean = rank_bytes.total() / world_size
            assert rank_bytes[rank] == pytest.approx(mean, rel=0.05), (stage, world_size, rank_bytes)


@pytest.mark.parametrize("source", [(3, 4), (2, 4), (0, 4), (3, 2)])
def test_resharding_memory_is_bounded(
    four_ranks: WorkerPool, sharded_runs: dict[tuple[int, int], Path], tmp_path: Path, source: tuple[int, int]
) -> None:
    """While it loads and saves, no rank reads more than its shards, or has a whole parameter in memory."""
    checkpoint = str(list_checkpoints(sharded_runs[source])[0])
    results = four_ranks.call(f"{RESHARDING}:resume_and_count", checkpoint, str(tmp_path / "run"), stage_overrides(3))
    for result in results:
        local_bytes = result["local bytes"]
        load, save = result["load"], result["save"]
        assert load["bytes"] <= 1.2 * local_bytes
        # 1.25 was measured: the stored values, and a copy of the weights.
        assert load["peak"] <= 1.3 * local_bytes
        # All ranks exchange their entries of the manifest.
        assert save["peak"] <= 0.1 * local_bytes + 4 * (Path(checkpoint) / MANIFEST_FILE).stat().st_size
        assert load["gathered"] == 0
        assert save["gathered"] == 0
        for name, numel in result["whole numel"].items():
            shard_numel = -(-numel // 4)
            assert result["local numel"][name] == shard_numel, name
            assert result["shard numel"].get(name, 0) <= shard_numel, name
        largest = max(-(-numel // 4) for numel in result["whole numel"].values())
        assert load["largest"] <= 1.2 * largest


def test_checkpoint_appears_when_the_slowest_rank_has_written(two_ranks: WorkerPool, tmp_path: Path) -> None:
    """The folder gets its name only once the shards of all ranks are written."""
    run = tmp_path / "run"
    settings = ["train.steps=1", *stage_overrides(3)]
    thread = threading.Thread(
        target=two_ranks.call, args=(f"{RESHARDING}:train_with_slow_writes", str(run), settings, 1, 3.0)
    )
    thread.start()
    times_staging_seen = 0
    while thread.is_alive():
        if list_checkpoints(run) or (run / "checkpoints" / "step-1").exists():
            check_files(run / "checkpoints" / "step-1")
        elif any((run / "checkpoints").glob(".step-1.*.new")):
            times_staging_seen += 1
        time.sleep(0.02)
    thread.join()
    assert times_staging_seen >= 100
    assert check_files(run / "checkpoints" / "step-1").step == 1


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("rank", [0, 1])
def test_full_disk_of_one_rank_ends_all_ranks(two_ranks: WorkerPool, tmp_path: Path, stage: int, rank: int) -> None:
    """With its error; the previous checkpoint is intact, and nothing is left of the failed one."""
    run = tmp_path / "run"
    # Each rank writes two files of a checkpoint, rank 0 four more.
    num_files = 2 + (4 if rank == 0 else 0)
    results = two_ranks.call(
        f"{RESHARDING}:train_with_full_disk", str(run), ["train.steps=3", *stage_overrides(stage)], rank, num_files + 1
    )
    failed, other = results[rank], results[1 - rank]
    assert failed["error"] == "RunError"
    assert failed["text"].startswith(f"step 2: {os.strerror(errno.ENOSPC)} (")
    assert failed["text"].endswith(f"fix this and continue with ni train --resume {run}")
    assert other["error"] == "RemoteRankError"
    assert other["text"].startswith(f"step 2: process {rank}: {os.strerror(errno.ENOSPC)} (")
    assert other["text"].endswith(failed["text"].partition("); ")[2]), "both have the same hint"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["latest", "step-1"]
    assert check_files(run / "checkpoints" / "step-1").step == 1
    assert read_latest(run) == run / "checkpoints" / "step-1"


@pytest.mark.parametrize("stage", range(4))
def test_nan_weight_on_one_rank_is_not_saved(two_ranks: WorkerPool, tmp_path: Path, stage: int) -> None:
    """All ranks end without saving a checkpoint."""
    run = tmp_path / "run"
    results = two_ranks.call(
        f"{RESHARDING}:train_with_nonfinite_save", str(run), ["train.steps=3", *stage_overrides(stage)], 1, 2
    )
    assert [result["error"] for result in results] == ["RemoteRankError", "RunError"]
    text = results[1]["text"]
    assert text.startswith("step 2: ")
    assert text.endswith(" is not finite, so nothing was saved; resume from an earlier checkpoint")
    assert results[0]["text"] == f"process 1: {text}"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["latest", "step-1"]


def damage_shard(folder: Path, older: Path, how: str, generator: random.Random) -> Path:
    """Damages a shard; returns the file that the error has to name.

    Args:
        folder: The checkpoint.
        older: An older checkpoint.
        how: One of `DAMAGE_KINDS`.
        generator: Chooses the shard and the place of the damage.
    """
    stem = generator.choice(["model", "average", "training"])
    rank, other = generator.sample(range(4), 2)
    file = folder / f"{stem}-{rank}-of-4.safetensors"
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "swapped":
        other_file = folder / f"{stem}-{other}-of-4.safetensors"
        file.write_bytes(other_file.read_bytes())
        other_file.write_bytes(content)
        return min(file, other_file)
    elif how == "older":
        shutil.copy(older / file.name, file)
    elif how == "truncated":
        file.write_bytes(content[: generator.randrange(len(content))])
    else:
        index = generator.randrange(len(content))
        file.write_bytes(content[:index] + bytes([content[index] ^ 1 << generator.randrange(8)]) + content[index + 1 :])
    return file


DAMAGE_KINDS = ["missing", "swapped", "older", "truncated", "flipped"]


@pytest.mark.parametrize("how", DAMAGE_KINDS)
def test_damaged_shard_is_named(run_copy: Path, how: str) -> None:
    """And the newest intact checkpoint is found."""
    generator = random.Random(how)
    older, newest = list_checkpoints(run_copy)
    for _ in range(10):
        shutil.copytree(newest, run_copy / "backup")
        file = damage_shard(newest, older, how, generator)
        with pytest.raises(CheckpointError) as caught:
            check_files(newest)
        assert str(file) in str(caught.value)
        folder, _, faults = find_latest_valid(run_copy)
        assert folder == older
        assert len(faults) == 1
        assert str(file) in faults[0]
        shutil.rmtree(newest)
        (run_copy / "backup").rename(newest)
    check_files(newest)


@pytest.mark.parametrize("how", ["missing", "swapped"])
def test_ranks_skip_a_checkpoint_with_a_damaged_shard(two_ranks: WorkerPool, run_copy: Path, how: str) -> None:
    """All ranks resume from the checkpoint before it, and a warning names the damaged one."""
    older, newest = list_checkpoints(run_copy)
    file = damage_shard(newest, older, how, random.Random(5))
    results = two_ranks.call(f"{RESHARDING}:resume_in_place", str(run_copy))
    (warning,) = [text for _, text in results[0]["warnings"] if "skipped a checkpoint" in text]
    # Of two swapped files either may be named.
    assert str(file) in warning or how == "swapped"
    assert results[0]["steps"] == results[1]["steps"] == [2]
    assert find_latest_valid(run_copy)[0] == newest


def test_rank_zero_lists_checkpoints_for_all_ranks(two_ranks: WorkerPool, run_copy: Path) -> None:
    """If another rank sees fewer checkpoints, all ranks still resume from the same one."""
    older, newest = list_checkpoints(run_copy)
    damage_shard(newest, older, "missing", random.Random(5))
    results = two_ranks.call(f"{RESHARDING}:resume_with_hidden_checkpoints", str(run_copy))
    assert any("skipped a checkpoint" in text for _, text in results[0]["warnings"])
    assert results[0]["steps"] == results[1]["steps"] == [2]


def test_init_from_checkpoint_checks_each_file_once(two_ranks: WorkerPool, run_copy: Path, tmp_path: Path) -> None:
    """The ranks share the files, and check only those that are read."""
    newest = str(list_checkpoints(run_copy)[-1])
    settings = [*WIDE_MODEL, *stage_overrides(3), "train.steps=1"]
    checked = two_ranks.call(f"{RESHARDING}:init_from_and_count_checks", newest, str(tmp_path / "new"), settings)
    assert [len(files) for files in checked] == [2, 2]
    assert sorted(checked[0] + checked[1]) == [f"average-{rank}-of-4.safetensors" for rank in range(4)]


def test_manifest_with_a_missing_shard_is_rejected(run_copy: Path) -> None:
    """Also if its checksum is right."""
    folder = list_checkpoints(run_copy)[-1]
    manifest = read_manifest(folder)
    del manifest.files["model-2-of-4.safetensors"]
    (folder / "checkpoint.json").write_bytes(encode_manifest(manifest))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is incomplete: it has 3 of 4 shards"):
        check_files(folder)


def test_one_process_reads_the_checkpoint_of_four_ranks(
    four_ranks: WorkerPool, ni: RunNi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives the same model and metrics, in Python and with the commands."""
    run = tmp_path / "run"
    settings = [*WIDE_MODEL, "model.router={use: quantised, size: 5, inner: stochastic_kernel}", *stage_overrides(3)]
    metrics: dict[str, Any] = four_ranks.call(f"{RESHARDING}:train_small", str(run), settings)[0]["metrics"]
    expected = {name: value for name, value in metrics.items() if name.startswith("test/")}
    assert expected.keys() == {"test/accuracy", "test/loss"}
    actual = evaluate_model(load_model(run), build_data(load_small_recipe(tmp_path, *WIDE_MODEL)).open()["test"])
    assert actual == pytest.approx(expected, rel=0, abs=1e-6)
    result = verify(list_checkpoints(run)[-1])
    assert result.differences == ()
    assert "golden batch" in result.compared
    monkeypatch.chdir(tmp_path)
    evaluated = ni("eval", run, "--json")
    assert evaluated.code == 0
    assert evaluated.json["metrics"] == pytest.approx(expected, rel=0, abs=1e-6)
    assert ni("verify", run).code == 0
