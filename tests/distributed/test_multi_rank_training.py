"""Ranks that differ are rejected or reported, and rank 0 alone prints, whichever launcher has started them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ni_framework.testing.workers.pool import WorkerPool
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

RANK_DIFFERENCES = {
    "a seed": (["seed=4"], {}, "recipe.seed is 3 in process 0 and 4 in process 1"),
    "an option": (["model.router.truncation=1.3"], {}, "recipe.model.router.truncation is 1.42 in process 0 and 1.3"),
    "a size": (["model.functions=4"], {}, "recipe.model.functions is 3 in process 0 and 4 in process 1 (and"),
    "data": (["data={use: digits, shift: 2}"], {}, "recipe.data.shift is 0.8 in process 0 and 2.0 in process 1 (and"),
    "a variable": ([], {"NI_ODD": "1"}, "environment.NI_ODD is absent in process 0 and 1 in process 1"),
    "threads": ([], {"OMP_NUM_THREADS": "7"}, "environment.OMP_NUM_THREADS is 1 in process 0 and 7 in process 1"),
}


@pytest.mark.parametrize("name", RANK_DIFFERENCES)
def test_differing_ranks_are_rejected(two_ranks: WorkerPool, tmp_path: Path, name: str) -> None:
    """Before the first step; the error names what differs on which rank."""
    overrides, environment, difference = RANK_DIFFERENCES[name]
    run = str(tmp_path / "run")
    for text, code, has_metrics in two_ranks.call(
        "tests.helpers.rank_functions.multi_rank_training:train_with_differences", run, overrides, environment
    ):
        assert f"the processes do not agree: {difference}" in text
        assert text.endswith("; make them the same on every machine")
        assert code == 1
        assert not has_metrics


@pytest.mark.parametrize("stage", [1, 3])
def test_straggler_is_reported(two_ranks: WorkerPool, tmp_path: Path, stage: int) -> None:
    """Once, by rank 0, and only if one rank is slower than the other."""
    warnings = two_ranks.call(
        "tests.helpers.rank_functions.multi_rank_training:train_with_delays", str(tmp_path / "slow"), stage, [0, 0.3]
    )
    (step, message), *others = [entry for entry in warnings[0] if "is a straggler" in entry[1]]
    assert message.startswith(f"process 1 ({socket.gethostname()}) is a straggler: it works ")
    assert step <= 30
    assert others == []
    assert warnings[1] == []
    # Both are slow, because other work of the machine can double the time of a step of milliseconds on one rank.
    equal_warnings = two_ranks.call(
        "tests.helpers.rank_functions.multi_rank_training:train_with_delays", str(tmp_path / "alike"), stage, [0.2, 0.2]
    )
    assert [entry for entry in equal_warnings[0] if "straggler" in entry[1]] == []


@pytest.mark.parametrize("number", [1, 3, 257])
def test_evaluation_with_fewer_samples_than_ranks(four_ranks: WorkerPool, number: int) -> None:
    """Some ranks have no samples, or fewer than others; the metrics are those of a single rank."""
    for all_ranks, one_rank in four_ranks.call(
        "tests.helpers.rank_functions.multi_rank_training:evaluate_together_and_alone", number
    ):
        assert all_ranks.keys() == one_rank.keys() == {"test/accuracy", "test/loss"}
        assert all_ranks == pytest.approx(one_rank, rel=0, abs=1e-6)


def clean_environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_stdout_has_one_document(tmp_path: Path) -> None:
    """Whatever DeepSpeed prints is in the log of each rank, in the run folder."""
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE_YAML)
    settings = ["engine={use: zero, stage: 2, deepspeed: {wall_clock_breakdown: true, dump_state: true}}"]
    command = [sys.executable, "-m", "ni_framework", "train", "small.yaml", *settings, "--processes", "2"]
    done = subprocess.run(
        [*command, "--output", "run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 1806
    assert "DeepSpeed" not in done.stderr
    assert "\x1b" not in done.stderr
    logs = [(tmp_path / "run" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert all(f"process {rank} of 2 on" in log for rank, log in enumerate(logs))
    assert "DeepSpeedEngine configuration" in logs[0]
    assert not list((tmp_path / "run" / "logs").glob("*.json"))


def find_free_tcp_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_training_on_two_nodes(tmp_path: Path) -> None:
    """Two torchrun agents on this machine train together, started as in the README."""
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE_YAML)
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    agent += [
        "--rdzv_backend",
        "c10d",
        "--rdzv_endpoint",
        f"127.0.0.1:{find_free_tcp_port()}",
        "-m",
        "ni_framework",
        "train",
    ]
    agent += ["small.yaml", "engine.use=zero", "engine.stage=3", "--output", "run", "--json"]
    nodes = [
        subprocess.Popen(
            agent, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
        )
        for _ in range(2)
    ]
    outputs = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    documents = [out for out, _ in outputs if out.strip()]
    assert len(documents) == 1
    assert json.loads(documents[0])["metrics"]["test/accuracy"] > 0
    shards = sorted(path.name for path in (tmp_path / "run").glob("checkpoints/step-6/model*"))
    assert shards == ["model-0-of-2.safetensors", "model-1-of-2.safetensors"]


def test_training_with_the_deepspeed_launcher(tmp_path: Path) -> None:
    """It adds `--local_rank` before the command, which repeats an environment variable."""
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE_YAML)
    launcher = [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "--num_gpus",
        "2",
        "--master_port",
        str(find_free_tcp_port()),
    ]
    launcher += ["--module", "ni_framework", "train", "small.yaml", "engine.use=zero", "--output", "run"]
    done = subprocess.run(launcher, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=clean_environment())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-6" / "model-1-of-2.safetensors").exists()
