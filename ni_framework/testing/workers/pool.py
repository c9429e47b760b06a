"""A pool of processes that call the same function together on CPU, and stay alive for the next call."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

# Seconds for one call; the first one also imports modules and connects the processes.
CALL_TIMEOUT = 240.0
# The length of the end of a log that an error message shows.
_LOG_TAIL_CHARS = 4000


class WorkerCallFailed(AssertionError):
    """A function has failed in some process. `messages` are those of the exceptions by rank, None for ranks without one."""

    def __init__(self, message: str, messages: Sequence[str | None]) -> None:
        super().__init__(message)
        self.messages = messages


class WorkerPool:
    """`world_size` processes with ranks, with the environment variables that a launcher would set.

        with WorkerPool(2) as workers:
            results_by_rank = workers.call("tests.module:function", 3, name="x")

    Arguments and results are JSON documents. If a function fails in one process or does not return, all processes are killed;
    the next call starts new ones.
    """

    def __init__(
        self, world_size: int, timeout: float = CALL_TIMEOUT, environment: Mapping[str, str] | None = None
    ) -> None:
        self.world_size, self.timeout = world_size, timeout
        self._environment = dict(environment or {})
        self._workers: list[subprocess.Popen[bytes]] = []
        self._log_dir = tempfile.TemporaryDirectory(prefix="ni-processes-")

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, function: str, *arguments: Any, **kwargs: Any) -> list[Any]:
        """Calls a function in every process.

        Args:
            function: The function as "module:function".
            *arguments: The positional arguments.
            **kwargs: The keyword arguments.

        Returns:
            The results by rank.

        Raises:
            WorkerCallFailed: The function has raised, or a process has ended or not answered in time.
        """
        if not self._workers:
            self._start_workers()
        request = json.dumps({"function": function, "arguments": arguments, "kwargs": kwargs}) + "\n"
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(request.encode())
            worker.stdin.flush()
        responses = self._collect_responses(function)
        failed = [rank for rank, response in enumerate(responses) if response is None or "error" in response]
        if failed:
            details = "\n".join(self._describe_failure(rank, responses[rank]) for rank in failed)
            self._kill_workers()
            message = f"{function} failed on rank {', '.join(map(str, failed))} of {self.world_size}:\n{details}"
            raise WorkerCallFailed(message, [response.get("message") if response else None for response in responses])
        return [response["result"] for response in responses if response is not None]

    def close(self) -> None:
        """Kills the processes."""
        self._kill_workers()
        self._log_dir.cleanup()

    def _start_workers(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        common_env = {
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")])),
        }
        for rank in range(self.world_size):
            rank_env = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(self._log_path(rank), "wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "ni_framework.testing.workers.pool"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=os.environ | common_env | rank_env | self._environment,
                )
            self._workers.append(worker)

    def _collect_responses(self, function: str) -> list[dict[str, Any] | None]:
        """Reads one response of each process; None for one that has ended or not answered in time."""
        responses: list[dict[str, Any] | None] = [None] * self.world_size
        deadline = time.monotonic() + self.timeout
        with selectors.DefaultSelector() as selector:
            for rank, worker in enumerate(self._workers):
                assert worker.stdout is not None
                selector.register(worker.stdout, selectors.EVENT_READ, (rank, worker.stdout))
            while selector.get_map() and (time_left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(time_left):
                    rank, pipe = key.data
                    line = pipe.readline()
                    responses[rank] = json.loads(line) if line else None
                    selector.unregister(pipe)
                    # After a failure the other ranks may wait for this one until the timeout.
                    if responses[rank] is None or "error" in responses[rank]:
                        deadline = min(deadline, time.monotonic() + 5)
        return responses

    def _describe_failure(self, rank: int, response: Mapping[str, Any] | None) -> str:
        if response is not None:
            return f"rank {rank}: {response['error']}"
        log = self._log_path(rank).read_text(errors="replace")[-_LOG_TAIL_CHARS:]
        return f"rank {rank} has ended or did not answer within {self.timeout:g} s; the end of its log:\n{log}"

    def _log_path(self, rank: int) -> Path:
        return Path(self._log_dir.name) / f"{rank}.log"

    def _kill_workers(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.communicate()
        self._workers = []


def _serve_requests() -> None:
    """Answers requests, one JSON document per line. The output of the called functions goes to the log."""
    responses = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            module, _, name = request["function"].partition(":")
            result = getattr(import_module(module), name)(*request["arguments"], **request["kwargs"])
            response = json.dumps({"result": result})
        except BaseException as error:
            response = json.dumps({"error": traceback.format_exc(), "message": str(error)})
        responses.write(f"{response}\n")


def run_in_workers(world_size: int, function: str, *arguments: Any, **kwargs: Any) -> Sequence[Any]:
    """Calls a function in `world_size` new processes and returns the results by rank."""
    with WorkerPool(world_size) as workers:
        return workers.call(function, *arguments, **kwargs)


if __name__ == "__main__":
    _serve_requests()
