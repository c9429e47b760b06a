"""A process with everything imported that forks one `ni` after another, so that fifty runs do not pay for fifty imports.

Reads one JSON document a line: arguments, folder, files for stdout and stderr, and what is to fail in which file operation.
Answers with the child's process id, and once it has ended with its status as `subprocess` gives it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import sys
from typing import Any

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


def run(request: dict[str, Any]) -> None:
    """Becomes the command."""
    os.chdir(request["cwd"])
    for descriptor, path in ((1, request["stdout"]), (2, request["stderr"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.argv = ["ni", *request["arguments"]]
    if request.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    if request.get("how"):
        break_operations(request.get("at"), request["how"], request.get("count_to"))

    from ni_framework.cli import main

    main()


def main() -> None:
    """Forks until its input ends."""
    import torch

    torch.set_num_threads(1)
    import ni_framework.cli.train
    import ni_framework.engine.trainer  # noqa: F401
    from ni_framework.cli import progress, tensorboard  # noqa: F401
    from ni_framework.engine.local import LocalEngine
    from ni_framework.model.compose import build_data, build_model
    from ni_framework.registry import load_recipe

    recipe = load_recipe(sys.argv[1])
    build_data(recipe).open()
    LocalEngine(build_model(recipe), recipe)  # no forward, and above all no backward: autograd would not survive a fork
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write("ready\n")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                answers.close()
                run(json.loads(line))
                status = 0
            except SystemExit as exit:
                status = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        answers.write(f"{child}\n")
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
