"""The launcher: however the ranks end, it reports the first cause, and no process is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.helpers.launcher_process import LauncherProcess


def test_all_ranks_succeed(launcher_process: LauncherProcess) -> None:
    """Each rank has its environment variables; rank 0 alone has the launcher's stdout."""
    names = "WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS NI_SUPERVISED"
    program = f"""
print("rank", rank, *(os.environ[name] for name in {names.split()}), os.environ["MASTER_PORT"].isdecimal())
wait_for(0, 1, 2)
with supervised_worker():
    print(os.path.exists(error_dir / f"rank-{{rank}}.log"), os.getsid(0) == os.getpid(), "NI_SUPERVISOR" in os.environ)
sys.exit(sys.stdin is None)
"""
    done = launcher_process(program, 3, OMP_NUM_THREADS="7")
    assert done[:3] == (0, None, False)
    assert done.out == "rank 0 3 0 3 127.0.0.1 7 1 True\nFalse True False\n"


def test_threads_share_the_cores(launcher_process: LauncherProcess) -> None:
    """Unless OMP_NUM_THREADS is set; each rank has at least one thread."""
    launcher_process.environment.pop("OMP_NUM_THREADS", None)
    done = launcher_process("print(os.environ['OMP_NUM_THREADS'])", 5)
    assert done.out == f"{max(1, (os.cpu_count() or 1) // 5)}\n"


def test_killed_rank_is_reported(launcher_process: LauncherProcess) -> None:
    """The other ranks have time to exit by themselves; the launcher adds what rank 0 could not print."""
    program = """
wait_for(0, 1, 2)
if rank == 1:
    print("last", "line", "of the log\\x1b[2J", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
while not os.path.exists(error_dir / "rank-1.json"):  # the launcher writes it
    time.sleep(0.005)
print(read_first_error(error_dir).message, flush=True)
write_error_file(error_dir, rank, "process 1 has gone", 6)
sys.exit(6)
"""
    done = launcher_process(program, 3)
    assert done.out == "ended by SIGKILL (perhaps out of memory)\n"
    # The exit code is that of the killed rank, not that of the ranks that lost it.
    assert done.exit_code == 1
    assert not done.silent
    assert done.message == (
        "process 1 was ended by SIGKILL (perhaps out of memory); the log of process 1 ends:\n    last line of the log\ufffd[2J"
    )
    assert done.seconds < 5


@pytest.mark.parametrize("rank", [0, 1])
def test_waiting_ranks_are_killed_after_the_grace_period(launcher_process: LauncherProcess, rank: int) -> None:
    """Whichever rank is killed, the others that wait for it endlessly are killed after the grace period."""
    launcher_process.start("time.sleep(100)", 3, grace=0.2)
    os.kill(launcher_process.wait_for_workers(0, 1, 2)[rank], signal.SIGKILL)
    killed = time.monotonic()
    done = launcher_process.wait()
    assert time.monotonic() - killed < 3
    assert done.exit_code == 1
    # Rank 0 was killed sooner or later, before it printed anything.
    assert done.silent
    assert (done.message or "").startswith(f"process {rank} was ended by SIGKILL (perhaps out of memory)\n")
    others = sorted({0, 1, 2} - {rank})
    assert f"processes {others[0]} and {others[1]} did not exit by themselves and were killed" in (done.message or "")


def test_suspended_rank_writes_its_stacks_and_is_killed(launcher_process: LauncherProcess) -> None:
    """A rank that is suspended (SIGSTOP) and that the other reports as lost is killed; its log shows where it hung."""
    program = """
def where_it_hangs():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(100)
if rank == 1:
    where_it_hangs()
wait_for(1)
time.sleep(0.2)
write_error_file(error_dir, rank, "process 1 does not answer", 1)
print("process 1 does not answer", flush=True)
sys.exit(1)
"""
    done = launcher_process(program, grace=0.3)
    assert done.exit_code == 1
    assert not done.silent
    assert done.out == "process 1 does not answer\n"
    first, *stack = (done.message or "").splitlines()
    assert first == "process 1 did not exit by itself and was killed; the log of process 1 ends:"
    assert any("where_it_hangs" in line for line in stack)
    assert done.seconds < 4


def test_suspended_rank_zero_is_killed(launcher_process: LauncherProcess) -> None:
    """The launcher reports the error file of another rank instead, and the stacks of rank 0 are on stderr."""
    program = """
if rank == 0:
    wait_for(1)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(100)
wait_for(0)
time.sleep(0.2)
write_error_file(error_dir, rank, "process 0 does not answer", 7)
sys.exit(7)
"""
    done = launcher_process(program, grace=0.3)
    assert done.exit_code == 7
    assert done.silent
    assert done.message == ("process 1: process 0 does not answer\nprocess 0 did not exit by itself and was killed")
    assert "most recent call first" in done.out


def test_first_error_file_gives_the_exit_code(launcher_process: LauncherProcess) -> None:
    """The rank that failed first may be the last to exit."""
    program = """
if rank == 1:
    write_error_file(error_dir, rank, "out of memory", 7)
    pathlib.Path("written").write_text("")
    time.sleep(0.5)
    sys.exit(7)
while not os.path.exists("written"):
    time.sleep(0.005)
write_error_file(error_dir, rank, "process 1 has gone", 1)
if os.path.exists("abort"):
    with supervised_worker():
        print("process 1: out of memory", flush=True)
    os.abort()
sys.exit(1)
"""
    assert launcher_process(program)[:3] == (7, None, False)
    (launcher_process.folder / "written").unlink()
    (launcher_process.folder / "abort").touch()
    done = launcher_process(program)
    assert done.exit_code == 7
    assert not done.silent
    assert done.message == "process 0 was ended by SIGABRT (a crash in compiled code)"


def test_rank_zero_error_is_not_repeated(launcher_process: LauncherProcess) -> None:
    """The launcher reports only what happened to rank 0 after it printed its own error."""
    program = """
write_error_file(error_dir, rank, "no such data", 3)
with supervised_worker():
    wait_for(0, 1)
    print("error: no such data", flush=True)
    sys.exit(3) if rank else "rank 0 hangs while it exits"
time.sleep(100)
"""
    done = launcher_process(program, grace=0.1)
    assert done.exit_code == 3
    assert not done.silent
    assert done.out.startswith("error: no such data\n")
    assert done.message == "process 0 did not exit by itself and was killed"
    silent = launcher_process(program.replace("with supervised_worker():", "if True:"), grace=0.1)
    assert silent.exit_code == 3
    assert silent.silent
    assert re.match(
        r"process [01]: no such data\nprocess 0 did not exit by itself and was killed", silent.message or ""
    )


def test_exit_without_error_file(launcher_process: LauncherProcess) -> None:
    """If the first failed rank left no error file, the launcher shows the end of its log, unless rank 0 failed alike."""
    program = """
while rank == 0 and (not os.path.exists("up-1") or os.path.exists(f"/proc/{pathlib.Path('up-1').read_text()}")):
    time.sleep(0.2)
print("error: no such data")
sys.exit(int(os.environ["CODES"][rank]))
"""
    done = launcher_process(program, CODES="13")
    assert done.exit_code == 3
    assert not done.silent
    assert done.out == "error: no such data\n"
    assert done.message == "process 1 ended with exit code 3; the log of process 1 ends:\n    error: no such data"
    assert launcher_process(program, CODES="33")[:3] == (3, None, False)


def test_log_in_the_run_folder_is_quoted(launcher_process: LauncherProcess) -> None:
    """If a rank has recorded the path of its log, the launcher names that file and quotes its last lines."""
    log = launcher_process.folder / "run.log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    program = f"""
(error_dir / f"rank-{{rank}}.log-path").write_text({str(log)!r})
sys.exit(5 if rank else 1) if rank else time.sleep(100)
"""
    done = launcher_process(program, grace=0.1)
    lines = [f"    line {number}" for number in range(9_985, 10_000)]
    reported = (done.message or "").split("\n")
    assert reported[0] == f"process 1 ended with exit code 5; the log of process 1, {log}, ends:"
    assert reported[1:16] == lines
    assert done.exit_code == 5
    assert done.silent


def test_child_processes_of_ranks_are_killed(launcher_process: LauncherProcess) -> None:
    """The processes that a rank has started, for example data workers, end with it."""
    program = """
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", *sys.argv[1:]])
sys.exit(0 if rank else 4)
"""
    assert launcher_process(program).exit_code == 4


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_repeated_kills(launcher_process: LauncherProcess, times: int) -> None:
    """One of four ranks is killed at varying instants: all end each time, quickly, with the same message."""
    for attempt in range(times):
        launcher_process.start("time.sleep(100)", 4, grace=0.05)
        victim = launcher_process.wait_for_workers(0, 1, 2, 3)[attempt % 4]
        time.sleep(0.003 * attempt)
        os.kill(victim, signal.SIGKILL)
        done = launcher_process.wait()
        assert done.exit_code == 1
        assert re.match(rf"process {attempt % 4} was ended by SIGKILL \(perhaps out of memory\)\n", done.message or "")


def test_failed_start_kills_started_ranks(launcher_process: LauncherProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a rank cannot be started, the ranks before it are killed, and the error is raised."""
    from ni_framework.distributed import launcher

    started: list[Any] = []
    popen = subprocess.Popen

    def failing_popen(*arguments: Any, **named: Any) -> Any:
        if len(started) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(popen(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(launcher.subprocess, "Popen", failing_popen)
    with pytest.raises(OSError, match="temporarily unavailable"):
        launcher.launch_workers([sys.executable, "-c", "import time; time.sleep(100)", launcher_process.marker], 3)
    assert [process.returncode for process in started] == [-9, -9]
    monkeypatch.undo()
    assert launcher_process.running_pids() == []
