"""Processes that do not find each other, or are told nonsense: each ends with what, where and what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.distributed.rendezvous import told
from ni_framework.errors import UsageError
from tests.helpers.small_recipe import TEXT

RIGHT = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
LAUNCHERS = "start with ni train --processes, torchrun or deepspeed, which set them all"
NO_NUMBER = "and no number; the launcher sets it, so nobody else should"
NONSENSE = {
    "a rank alone": ({"RANK": "0"}, f"WORLD_SIZE: is not set, though RANK is; {LAUNCHERS}"),
    "a size alone": ({"WORLD_SIZE": "2"}, f"RANK: is not set, though WORLD_SIZE is; {LAUNCHERS}"),
    "no address": (RIGHT | {"MASTER_ADDR": ""}, f"MASTER_ADDR: is not set, though RANK is; {LAUNCHERS}"),
    "no port": (RIGHT | {"MASTER_PORT": ""}, f"MASTER_PORT: is not set, though RANK is; {LAUNCHERS}"),
    "a size in words": (RIGHT | {"WORLD_SIZE": "two"}, f"WORLD_SIZE: is 'two' {NO_NUMBER}"),
    "a negative rank": (RIGHT | {"RANK": "-1"}, f"RANK: is '-1' {NO_NUMBER}"),
    "a long size": (RIGHT | {"WORLD_SIZE": "9" * 5000}, f"WORLD_SIZE: is '{'9' * 80}' {NO_NUMBER}"),
    "too high a rank": (
        RIGHT | {"RANK": "2"},
        "RANK: is 2 of WORLD_SIZE 2; the ranks are the numbers below the size, from 0 on",
    ),
    "no processes": (
        RIGHT | {"RANK": "0", "WORLD_SIZE": "0"},
        "RANK: is 0 of WORLD_SIZE 0; the ranks are the numbers below the size, from 0 on",
    ),
    "a port by name": (RIGHT | {"MASTER_PORT": "http"}, f"MASTER_PORT: is 'http' {NO_NUMBER}"),
    "too high a port": (RIGHT | {"MASTER_PORT": "70000"}, "MASTER_PORT: is 70000; a port is a number from 1 to 65535"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_a_launcher_must_not_say(name: str) -> None:
    environment, words = NONSENSE[name]
    with pytest.raises(UsageError) as caught:
        told(environment)
    assert str(caught.value) == words


def test_what_a_launcher_does_say() -> None:
    assert told(RIGHT) == (1, 2)
    assert told({}) is None


@pytest.fixture
def taken() -> Iterator[int]:
    """A port where somebody listens who is no process of a run, and never answers."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("rank", "address", "reason"),
    [
        (0, "127.0.0.1", "The server socket has failed to listen"),  # the port is taken
        (1, "127.0.0.1", "who is there does not answer"),
        (0, "127.0.0.1:1", "Timed out after"),  # a free port, where nobody comes
        (1, "127.0.0.1:1", "[Errno "),
        (1, "absent.invalid", "[Errno "),
    ],
)
def test_nobody_is_found(tmp_path: Path, taken: int, rank: int, address: str, reason: str) -> None:
    """In the time that the recipe gives; said in one line."""
    (tmp_path / "small.yaml").write_text(TEXT)
    address, other, _ = address.partition(":")
    port = free_port() if other else taken
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "ni_framework", "train", "small.yaml", "engine.use=zero", "engine.timeout=1"]
    begun = time.monotonic()
    done = subprocess.run(
        [*command, "--output", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | place,
    )
    assert done.returncode == 1
    words = f"error: process {rank} of 2 on {socket.gethostname()} found no others at {address}:{port} in 1 s ({reason}"
    assert done.stderr.startswith(words)
    assert done.stderr.endswith(
        "); check MASTER_ADDR and MASTER_PORT, that the port is free and reachable, and that all processes are started\n"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert time.monotonic() - begun < 30  # of a busy machine, where torch alone takes ten to import


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
