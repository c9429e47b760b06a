"""A process with everything imported that forks one `ni` after another, so that fifty runs do not pay for fifty imports.

Reads one JSON document a line: arguments, folder, files for stdout and stderr, and what is to fail in which file operation.
Answers with the child's process id, and once it has ended with its status as `subprocess` gives it. What `ni train
--processes` starts is forked too; the process id of each stands in `rank-N.pid`, beside the file for stderr.
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

# What changes names or contents on a disk.
OPERATIONS = ("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "symlink")


def break_operations(at: int | None, how: str, count_to: str | None) -> None:
    """Has operation number `at` go wrong: "kill" before it, "half" in the middle of a write, or an error by its name.

    Without `at` they are only counted, and the number is written to a file at the end.
    """
    seen = 0

    def broken(name: str, original: Any) -> Any:
        def operation(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):  # only looks
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

    for name in OPERATIONS:
        setattr(os, name, broken(name, getattr(os, name)))


def fork(become: Callable[[], object]) -> int:
    """A child that does one thing and ends as a Python program does; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        become()
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


class Forked:
    """Stands for `subprocess.Popen` of `python -P -m ni_framework ...`: a fork in place of a new interpreter."""

    folder = Path()  # where process ids are written

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

        ready, told = os.pipe()

        def become() -> None:
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
            place = self.folder / f"rank-{env['RANK']}"
            place.with_suffix(".new").write_text(str(os.getpid()))
            place.with_suffix(".new").rename(place.with_suffix(".pid"))
            os.close(told)

            from ni_framework.cli import main
            from ni_framework.distributed.launcher import supervised
            from ni_framework.registry.file_plugins import forget_files
            from ni_framework.registry.resolve import forget

            forget_files()
            forget()
            with supervised():
                main()

        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = fork(become)
        os.close(told)
        os.read(ready, 1)  # until it has a session of its own
        os.close(ready)
        self.lock = threading.Lock()
        self.returncode: int | None = None

    def wait(self) -> int:
        """Its status, as `subprocess` gives it."""
        with self.lock:
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As `subprocess` does it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def run(request: dict[str, Any]) -> None:
    """Becomes the command."""
    from ni_framework.cli import main
    from ni_framework.distributed import launcher
    from ni_framework.registry.resolve import forget

    forget()  # a plugin of one file may be given
    os.chdir(request["cwd"])
    for descriptor, path in ((1, request["stdout"]), (2, request["stderr"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.argv = ["ni", *request["arguments"]]
    os.environ.update(request.get("environment", {}))
    Forked.folder = Path(request["stderr"]).parent
    launcher.subprocess = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)  # pyright: ignore
    if request.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    if request.get("how"):
        break_operations(request.get("at"), request["how"], request.get("count_to"))
    main()


def import_all(recipe_path: str) -> None:
    """Imports what a run needs; no forward, and above all no backward or process group: they would not survive a fork."""
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
    assert len(os.listdir("/proc/self/task")) == 1, "a thread does not survive a fork"


def main() -> None:
    """Forks until its input ends."""
    import_all(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write("ready\n")
    for line in sys.stdin:

        def become(line: str = line) -> None:
            answers.close()
            run(json.loads(line))

        child = fork(become)
        answers.write(f"{child}\n")
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
