"""A process that imports everything once and forks for each `ni` command, so that fifty runs do not need fifty imports.

It reads one JSON document per line: arguments, folder, files for stdout and stderr, and which file operation shall fail.
It replies with the process id of the child, and when that has ended, with its status as `subprocess` returns it. The ranks
that `ni train --processes` starts are forked too; the process id of each is in `rank-N.pid`, next to the file for stderr.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

# The operations that change names or contents on a disk.
FILE_OPERATIONS = ("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "symlink")


def inject_file_fault(at: int | None, how: str, count_to: str | None) -> None:
    """Makes a file operation of this process fail.

    Args:
        at: The number of the operation, from 1; None only counts the operations.
        how: "kill" kills the process before the operation, "half" in the middle of a write; else the name of an error.
        count_to: A file for the number of operations so far.
    """
    seen = 0

    def wrap(name: str, original: Any) -> Any:
        def operation(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            # Opening for reading changes nothing on the disk.
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return original(*arguments, **named)
            seen += 1
            if count_to is not None:
                with contextlib.suppress(OSError), open(count_to, "w") as file:
                    file.write(str(seen))
            if seen == at:
                if how == "half" and name == "write":
                    original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                if how in ("half", "kill"):
                    os.kill(os.getpid(), signal.SIGKILL)
                number = getattr(errno, how)
                raise OSError(number, os.strerror(number), arguments[0] if isinstance(arguments[0], str) else None)
            return original(*arguments, **named)

        return operation

    for name in FILE_OPERATIONS:
        setattr(os, name, wrap(name, getattr(os, name)))


def fork_and_run(run: Callable[[], object]) -> int:
    """Forks a child that calls `run` and exits as a Python program does; returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run()
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class ForkedProcess:
    """Replaces `subprocess.Popen` of `python -P -m ni_framework ...`: a fork instead of a new interpreter.

    `folder` is where process ids are written.
    """

    folder = Path()

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        start_new_session: bool,
        stdin: int | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> None:
        assert command[:4] == [sys.executable, "-P", "-m", "ni_framework"]
        assert start_new_session

        ready_end, child_end = os.pipe()

        def run_rank() -> None:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if stdin == subprocess.DEVNULL:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for descriptor, file in ((1, stdout), (2, stderr)):
                if file is not None:
                    os.dup2(file.fileno(), descriptor)
            os.environ.clear()
            os.environ.update(env)
            sys.argv = ["ni", *command[4:]]
            pid_file = self.folder / f"rank-{env['RANK']}"
            pid_file.with_suffix(".new").write_text(str(os.getpid()))
            pid_file.with_suffix(".new").rename(pid_file.with_suffix(".pid"))
            os.close(child_end)

            from ni_framework.cli import main
            from ni_framework.distributed.launcher import supervised_worker
            from ni_framework.registry.file_plugins import clear_plugin_files
            from ni_framework.registry.resolve import reset_registry

            clear_plugin_files()
            reset_registry()
            with supervised_worker():
                main()

        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = fork_and_run(run_rank)
        os.close(child_end)
        # Reading returns when the child has closed its end, after it has created its session.
        os.read(ready_end, 1)
        os.close(ready_end)
        self.lock = threading.Lock()
        self.returncode: int | None = None

    def wait(self) -> int:
        """Returns the status of the child, as `subprocess` returns it."""
        with self.lock:
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, as `subprocess` does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def run_command(request: dict[str, Any]) -> None:
    """Runs the command of a request in this process."""
    from ni_framework.cli import main
    from ni_framework.distributed import launcher
    from ni_framework.registry.resolve import reset_registry

    # The command may name a single-file plugin.
    reset_registry()
    os.chdir(request["cwd"])
    for descriptor, path in ((1, request["stdout"]), (2, request["stderr"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.argv = ["ni", *request["arguments"]]
    os.environ.update(request.get("environment", {}))
    ForkedProcess.folder = Path(request["stderr"]).parent
    launcher.subprocess = SimpleNamespace(Popen=ForkedProcess, DEVNULL=subprocess.DEVNULL)  # pyright: ignore
    if request.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    if request.get("how"):
        inject_file_fault(request.get("at"), request["how"], request.get("count_to"))
    main()


def import_all(recipe_path: str) -> None:
    """Imports what a run needs; no forward or backward pass and no process group, which would not survive a fork."""
    import torch

    torch.set_num_threads(1)
    import ni_framework.cli.grow
    import ni_framework.cli.train
    import ni_framework.growth.grow
    import ni_framework.training.train  # noqa: F401
    from ni_framework.cli import progress, tensorboard  # noqa: F401
    from ni_framework.engines.local import LocalEngine
    from ni_framework.model.compose import build_data, build_model
    from ni_framework.registry import load_recipe

    recipe = load_recipe(recipe_path)
    build_data(recipe).open()
    if recipe.engine.use == "local":
        LocalEngine(build_model(recipe), recipe)
        return
    import warnings

    from ni_framework.engines.deepspeed import engine  # noqa: F401

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        import deepspeed  # noqa: F401
    build_model(recipe)
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"


def main() -> None:
    """Forks for each request until the input ends."""
    import_all(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    replies.write("ready\n")
    for line in sys.stdin:

        def run_request(line: str = line) -> None:
            replies.close()
            run_command(json.loads(line))

        child = fork_and_run(run_request)
        replies.write(f"{child}\n")
        _, status = os.waitpid(child, 0)
        replies.write(f"{os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
