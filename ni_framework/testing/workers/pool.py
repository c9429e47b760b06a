"""Several processes that carry out the same function together, on this machine's CPU; kept for the next one."""

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

TIMEOUT = 240.0  # seconds for one function; the first one imports and sets up
_TAIL = 4000  # characters of a log that are shown


class Failed(AssertionError):
    """A function that has failed in some process: which, and the end of its log."""

    def __init__(self, message: str, said: Sequence[str | None]) -> None:
        super().__init__(message)
        self.said = said  # what was raised, by rank; None where it returned, or the process ended or did not answer


class Processes:
    """`number` processes, each with a rank of its own, as a launcher would have started them.

        with Processes(2) as processes:
            results = processes.call("tests.somewhere:function", 3, name="x")   # by rank

    Arguments and results are JSON documents. A function that fails in one process, or does not return, ends them all.
    """

    def __init__(self, number: int, timeout: float = TIMEOUT, environment: Mapping[str, str] | None = None) -> None:
        self.number, self.timeout = number, timeout
        self._environment = dict(environment or {})
        self._workers: list[subprocess.Popen[bytes]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="ni-processes-")

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, function: str, *arguments: Any, **named: Any) -> list[Any]:
        """What a function, named as `module:function`, returns in each process, by rank; raises `Failed`."""
        if not self._workers:
            self._start()
        request = json.dumps({"function": function, "arguments": arguments, "named": named}) + "\n"
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(request.encode())
            worker.stdin.flush()
        answers = self._answers(function)
        failed = [rank for rank, answer in enumerate(answers) if answer is None or "error" in answer]
        if failed:
            told = "\n".join(self._told(rank, answers[rank]) for rank in failed)
            self._end()
            message = f"{function} failed in process {', '.join(map(str, failed))} of {self.number}:\n{told}"
            raise Failed(message, [answer.get("said") if answer else None for answer in answers])
        return [answer["result"] for answer in answers if answer is not None]

    def close(self) -> None:
        """Ends the processes."""
        self._end()
        self._folder.cleanup()

    def _start(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        common = {
            "WORLD_SIZE": str(self.number),
            "LOCAL_WORLD_SIZE": str(self.number),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")])),
        }
        for rank in range(self.number):
            ranked = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(self._log(rank), "wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "ni_framework.testing.workers.pool"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=os.environ | common | ranked | self._environment,
                )
            self._workers.append(worker)

    def _answers(self, function: str) -> list[dict[str, Any] | None]:
        """One line of each process; None of one that has ended, or has not answered when time was up."""
        answers: list[dict[str, Any] | None] = [None] * self.number
        end = time.monotonic() + self.timeout
        with selectors.DefaultSelector() as selector:
            for rank, worker in enumerate(self._workers):
                assert worker.stdout is not None
                selector.register(worker.stdout, selectors.EVENT_READ, (rank, worker.stdout))
            while selector.get_map() and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    rank, pipe = key.data
                    line = pipe.readline()
                    answers[rank] = json.loads(line) if line else None
                    selector.unregister(pipe)
                    if answers[rank] is None or "error" in answers[rank]:  # the others will wait in vain
                        end = min(end, time.monotonic() + 5)
        return answers

    def _told(self, rank: int, answer: Mapping[str, Any] | None) -> str:
        if answer is not None:
            return f"process {rank}: {answer['error']}"
        log = self._log(rank).read_text(errors="replace")[-_TAIL:]
        return f"process {rank} has ended or did not answer in {self.timeout:g} s; its log ends:\n{log}"

    def _log(self, rank: int) -> Path:
        return Path(self._folder.name) / f"{rank}.log"

    def _end(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.communicate()
        self._workers = []


def _work() -> None:
    """Carries out what comes in, a JSON document a line; what functions print goes to the log."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            module, _, name = request["function"].partition(":")
            result = getattr(import_module(module), name)(*request["arguments"], **request["named"])
            answer = json.dumps({"result": result})
        except BaseException as error:
            answer = json.dumps({"error": traceback.format_exc(), "said": str(error)})
        answers.write(f"{answer}\n")


def parallel(number: int, function: str, *arguments: Any, **named: Any) -> Sequence[Any]:
    """What a function returns in each of `number` processes that are started for it alone."""
    with Processes(number) as processes:
        return processes.call(function, *arguments, **named)


if __name__ == "__main__":
    _work()
