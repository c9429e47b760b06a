"""Ranks that do not find each other, or have invalid environment variables: each ends with one line about what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.distributed.rendezvous import rank_and_world_size_from_env
from ni_framework.errors import UsageError
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

VALID_ENV = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
LAUNCHERS = "start with ni train --processes, torchrun or deepspeed, which set them all"
NOT_A_NUMBER = "which is not a number; the launcher sets it, do not set it yourself"
INVALID_ENVS = {
    "a rank alone": ({"RANK": "0"}, f"WORLD_SIZE: is not set, though RANK is; {LAUNCHERS}"),
    "a size alone": ({"WORLD_SIZE": "2"}, f"RANK: is not set, though WORLD_SIZE is; {LAUNCHERS}"),
    "no address": (VALID_ENV | {"MASTER_ADDR": ""}, f"MASTER_ADDR: is not set, though RANK is; {LAUNCHERS}"),
    "no port": (VALID_ENV | {"MASTER_PORT": ""}, f"MASTER_PORT: is not set, though RANK is; {LAUNCHERS}"),
    "a size as a word": (VALID_ENV | {"WORLD_SIZE": "two"}, f"WORLD_SIZE: is 'two', {NOT_A_NUMBER}"),
    "a negative rank": (VALID_ENV | {"RANK": "-1"}, f"RANK: is '-1', {NOT_A_NUMBER}"),
    "a long size": (VALID_ENV | {"WORLD_SIZE": "9" * 5000}, f"WORLD_SIZE: is '{'9' * 80}', {NOT_A_NUMBER}"),
    "too high a rank": (
        VALID_ENV | {"RANK": "2"},
        "RANK: is 2 with WORLD_SIZE 2; ranks are numbered from 0 to WORLD_SIZE - 1",
    ),
    "no processes": (
        VALID_ENV | {"RANK": "0", "WORLD_SIZE": "0"},
        "RANK: is 0 with WORLD_SIZE 0; ranks are numbered from 0 to WORLD_SIZE - 1",
    ),
    "a port by name": (VALID_ENV | {"MASTER_PORT": "http"}, f"MASTER_PORT: is 'http', {NOT_A_NUMBER}"),
    "too high a port": (
        VALID_ENV | {"MASTER_PORT": "70000"},
        "MASTER_PORT: is 70000; a port is a number from 1 to 65535",
    ),
}


@pytest.mark.parametrize("name", INVALID_ENVS)
def test_invalid_launcher_environment(name: str) -> None:
    environment, message = INVALID_ENVS[name]
    with pytest.raises(UsageError) as caught:
        rank_and_world_size_from_env(environment)
    assert str(caught.value) == message


def test_valid_launcher_environment() -> None:
    assert rank_and_world_size_from_env(VALID_ENV) == (1, 2)
    assert rank_and_world_size_from_env({}) is None


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which a foreign program listens and never answers."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("rank", "address", "reason"),
    [
        # The port is in use.
        (0, "127.0.0.1", "The server socket has failed to listen"),
        (1, "127.0.0.1", "the program that listens there does not answer"),
        # The port is free, and no other rank connects.
        (0, "127.0.0.1:1", "Timed out after"),
        (1, "127.0.0.1:1", "[Errno "),
        (1, "absent.invalid", "[Errno "),
    ],
)
def test_rendezvous_times_out(tmp_path: Path, silent_port: int, rank: int, address: str, reason: str) -> None:
    """After the timeout in the recipe, with one line."""
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE_YAML)
    address, is_other_port, _ = address.partition(":")
    port = find_free_port() if is_other_port else silent_port
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "ni_framework", "train", "small.yaml", "engine.use=zero", "engine.timeout=1"]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--output", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment,
    )
    assert done.returncode == 1
    message = f"error: process {rank} of 2 on {socket.gethostname()} found no other process at {address}:{port} in 1 s ({reason}"
    assert done.stderr.startswith(message)
    assert done.stderr.endswith(
        "); check MASTER_ADDR and MASTER_PORT, that the port is free and reachable, and that all processes are started\n"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    # On a busy machine, importing torch alone takes ten seconds.
    assert time.monotonic() - start < 30


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
