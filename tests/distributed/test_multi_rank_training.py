"""Processes that are not alike are refused or named, and one alone speaks, however they were started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ni_framework.testing.workers.pool import Processes
from tests.helpers.small_recipe import TEXT

DIFFERENCES = {
    "a seed": (["seed=4"], {}, "recipe.seed is 3 in process 0 and 4 in process 1"),
    "an option": (["model.router.truncation=1.3"], {}, "recipe.model.router.truncation is 1.42 in process 0 and 1.3"),
    "a size": (["model.functions=4"], {}, "recipe.model.functions is 3 in process 0 and 4 in process 1 (and"),
    "data": (["data={use: digits, shift: 2}"], {}, "recipe.data.shift is 0.8 in process 0 and 2.0 in process 1 (and"),
    "a variable": ([], {"NI_ODD": "1"}, "environment.NI_ODD is absent in process 0 and 1 in process 1"),
    "threads": ([], {"OMP_NUM_THREADS": "7"}, "environment.OMP_NUM_THREADS is 1 in process 0 and 7 in process 1"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_processes_that_differ(two: Processes, tmp_path: Path, name: str) -> None:
    """Are refused before the first step, with what differs and where."""
    overrides, environment, words = DIFFERENCES[name]
    run = str(tmp_path / "run")
    for text, code, begun in two.call(
        "tests.helpers.rank_functions.multi_rank_training:refused", run, overrides, environment
    ):
        assert f"the processes do not agree: {words}" in text
        assert text.endswith("; make them the same on every machine")
        assert code == 1
        assert not begun


@pytest.mark.parametrize("stage", [1, 3])
def test_a_straggler_is_named(two: Processes, tmp_path: Path, stage: int) -> None:
    """Once, by the process that speaks; and nobody is where all are alike."""
    told = two.call("tests.helpers.rank_functions.multi_rank_training:paced", str(tmp_path / "slow"), stage, [0, 0.3])
    (step, message), *others = [entry for entry in told[0] if "holds up the others" in entry[1]]
    assert message.startswith(f"process 1 ({socket.gethostname()}) holds up the others: it works ")
    assert step <= 30
    assert others == [] == told[1]
    # Both long: steps of milliseconds take twice as long in one of them as soon as the machine does anything else.
    alike = two.call(
        "tests.helpers.rank_functions.multi_rank_training:paced", str(tmp_path / "alike"), stage, [0.2, 0.2]
    )
    assert [entry for entry in alike[0] if "holds up" in entry[1]] == []


@pytest.mark.parametrize("number", [1, 3, 257])
def test_fewer_samples_than_processes(four: Processes, number: int) -> None:
    """Some then have none to evaluate, or fewer than others; the figures are those of one process."""
    for together, alone in four.call("tests.helpers.rank_functions.multi_rank_training:evaluated", number):
        assert together.keys() == alone.keys() == {"test/accuracy", "test/loss"}
        assert together == pytest.approx(alone, rel=0, abs=1e-6)


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_one_document_on_stdout(tmp_path: Path) -> None:
    """Whatever DeepSpeed prints; the log of each process is in the run folder."""
    (tmp_path / "small.yaml").write_text(TEXT)
    settings = ["engine={use: zero, stage: 2, deepspeed: {wall_clock_breakdown: true, dump_state: true}}"]
    command = [sys.executable, "-m", "ni_framework", "train", "small.yaml", *settings, "--processes", "2"]
    done = subprocess.run(
        [*command, "--output", "run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 1806
    assert "DeepSpeed" not in done.stderr
    assert "\x1b" not in done.stderr
    logs = [(tmp_path / "run" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert all(f"process {rank} of 2 on" in log for rank, log in enumerate(logs))
    assert "DeepSpeedEngine configuration" in logs[0]
    assert not list((tmp_path / "run" / "logs").glob("*.json"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_nodes(tmp_path: Path) -> None:
    """Two torchrun agents that meet on this machine train together, as the README's command has it."""
    (tmp_path / "small.yaml").write_text(TEXT)
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    agent += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "-m", "ni_framework", "train"]
    agent += ["small.yaml", "engine.use=zero", "engine.stage=3", "--output", "run", "--json"]
    nodes = [
        subprocess.Popen(
            agent, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(2)
    ]
    ended = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ended
    documents = [out for out, _ in ended if out.strip()]
    assert len(documents) == 1
    assert json.loads(documents[0])["metrics"]["test/accuracy"] > 0
    shards = sorted(path.name for path in (tmp_path / "run").glob("checkpoints/step-6/model*"))
    assert shards == ["model-0-of-2.safetensors", "model-1-of-2.safetensors"]


def test_the_deepspeed_launcher(tmp_path: Path) -> None:
    """Its `--local_rank`, which it puts before the verb, says what the environment says."""
    (tmp_path / "small.yaml").write_text(TEXT)
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", str(free_port())]
    launcher += ["--module", "ni_framework", "train", "small.yaml", "engine.use=zero", "--output", "run"]
    done = subprocess.run(launcher, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-6" / "model-1-of-2.safetensors").exists()
