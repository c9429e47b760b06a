"""Processes that are started together: however they end, what is told is the first cause, and none is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.helpers.launcher_process import Crew


def test_all_end_well(crew: Crew) -> None:
    """Each knows its place; process 0 alone has our stdout."""
    names = "WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS NI_SUPERVISED"
    program = f"""
print("said", rank, *(os.environ[name] for name in {names.split()}), os.environ["MASTER_PORT"].isdecimal())
wait_for(0, 1, 2)
with supervised():
    print(os.path.exists(notes / f"rank-{{rank}}.log"), os.getsid(0) == os.getpid(), "NI_SUPERVISOR" in os.environ)
sys.exit(sys.stdin is None)
"""
    done = crew(program, 3, OMP_NUM_THREADS="7")
    assert done[:3] == (0, None, False)
    assert done.out == "said 0 3 0 3 127.0.0.1 7 1 True\nFalse True False\n"


def test_threads_share_the_cores(crew: Crew) -> None:
    """Unless told otherwise, and at least one each."""
    crew.environment.pop("OMP_NUM_THREADS", None)
    assert crew("print(os.environ['OMP_NUM_THREADS'])", 500 // 100).out == f"{max(1, (os.cpu_count() or 1) // 5)}\n"


def test_one_is_killed(crew: Crew) -> None:
    """The others have time to end by themselves; process 0 has spoken, and what it could not know is added."""
    program = """
wait_for(0, 1, 2)
if rank == 1:
    print("its", "last", "word\\x1b[2J", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
while not os.path.exists(notes / "rank-1.json"):  # which is written for it
    time.sleep(0.005)
print(first_note(notes).message, flush=True)
write_note(notes, rank, "process 1 has gone", 6)
sys.exit(6)
"""
    done = crew(program, 3)
    assert done.out == "ended by SIGKILL (out of memory, perhaps)\n"
    assert done.exit_code == 1  # not that of those that missed it
    assert not done.silent
    assert done.message == (
        "process 1 was ended by SIGKILL (out of memory, perhaps); the log of process 1 ends:\n    its last word\ufffd[2J"
    )
    assert done.seconds < 5


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_from_outside(crew: Crew, rank: int) -> None:
    """Whichever is killed, the rest that waits for it for ever is ended after its time."""
    crew.start("time.sleep(100)", 3, grace=0.2)
    os.kill(crew.up(0, 1, 2)[rank], signal.SIGKILL)
    killed = time.monotonic()
    done = crew.end()
    assert time.monotonic() - killed < 3
    assert (done.exit_code, done.silent) == (1, True)  # process 0 was killed sooner or later, and had said nothing
    assert (done.message or "").startswith(f"process {rank} was ended by SIGKILL (out of memory, perhaps)\n")
    others = sorted({0, 1, 2} - {rank})
    assert f"processes {others[0]} and {others[1]} did not end by themselves and were killed" in (done.message or "")


def test_frozen(crew: Crew) -> None:
    """One that is halted is noticed by the other; it is asked where it was, and ended."""
    program = """
def where_it_hangs():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(100)
if rank == 1:
    where_it_hangs()
wait_for(1)
time.sleep(0.2)
write_note(notes, rank, "process 1 does not answer", 1)
print("process 1 does not answer", flush=True)
sys.exit(1)
"""
    done = crew(program, grace=0.3)
    assert (done.exit_code, done.silent, done.out) == (1, False, "process 1 does not answer\n")
    first, *stack = (done.message or "").splitlines()
    assert first == "process 1 did not end by itself and was killed; the log of process 1 ends:"
    assert any("where_it_hangs" in line for line in stack)
    assert done.seconds < 4


def test_process_0_is_frozen(crew: Crew) -> None:
    """Then what another wrote down is told for it, and its stacks stand on our stderr."""
    program = """
if rank == 0:
    wait_for(1)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(100)
wait_for(0)
time.sleep(0.2)
write_note(notes, rank, "process 0 does not answer", 7)
sys.exit(7)
"""
    done = crew(program, grace=0.3)
    assert (done.exit_code, done.silent) == (7, True)
    assert done.message == ("process 1: process 0 does not answer\nprocess 0 did not end by itself and was killed")
    assert "most recent call first" in done.out


def test_first_note_gives_the_exit_code(crew: Crew) -> None:
    """The one that failed first may be the last to end."""
    program = """
if rank == 1:
    write_note(notes, rank, "out of memory", 7)
    pathlib.Path("noted").write_text("")
    time.sleep(0.5)
    sys.exit(7)
while not os.path.exists("noted"):
    time.sleep(0.005)
write_note(notes, rank, "process 1 has gone", 1)
if os.path.exists("abort"):
    with supervised():
        print("process 1: out of memory", flush=True)
    os.abort()
sys.exit(1)
"""
    assert crew(program)[:3] == (7, None, False)
    (crew.folder / "noted").unlink()
    (crew.folder / "abort").touch()
    done = crew(program)
    assert (done.exit_code, done.silent) == (7, False)
    assert done.message == "process 0 was ended by SIGABRT (a crash in compiled code)"


def test_process_0_has_spoken(crew: Crew) -> None:
    """Only what ends it after its last word is told, and not what it has said itself."""
    program = """
write_note(notes, rank, "no such data", 3)
with supervised():
    wait_for(0, 1)
    print("error: no such data", flush=True)
    sys.exit(3) if rank else "hangs on its way out"
time.sleep(100)
"""
    done = crew(program, grace=0.1)
    assert (done.exit_code, done.silent) == (3, False)
    assert done.out.startswith("error: no such data\n")
    assert done.message == "process 0 did not end by itself and was killed"
    silent = crew(program.replace("with supervised():", "if True:"), grace=0.1)
    assert (silent.exit_code, silent.silent) == (3, True)
    assert re.match(r"process [01]: no such data\nprocess 0 did not end by itself and was killed", silent.message or "")


def test_end_without_a_word(crew: Crew) -> None:
    """Where the first that failed left no note, the end of its log says why, unless process 0 has said the same."""
    program = """
while rank == 0 and (not os.path.exists("up-1") or os.path.exists(f"/proc/{pathlib.Path('up-1').read_text()}")):
    time.sleep(0.2)
print("error: no such data")
sys.exit(int(os.environ["CODES"][rank]))
"""
    done = crew(program, CODES="13")
    assert (done.exit_code, done.silent, done.out) == (3, False, "error: no such data\n")
    assert done.message == "process 1 ended with exit code 3; the log of process 1 ends:\n    error: no such data"
    assert crew(program, CODES="33")[:3] == (3, None, False)


def test_log_elsewhere(crew: Crew) -> None:
    """A process may name another file that it prints to; the last lines of that are told, and the file is named."""
    log = crew.folder / "run.log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    program = f"""
(notes / f"rank-{{rank}}.where").write_text({str(log)!r})
sys.exit(5 if rank else 1) if rank else time.sleep(100)
"""
    done = crew(program, grace=0.1)
    lines = [f"    line {number}" for number in range(9_985, 10_000)]
    told = (done.message or "").split("\n")
    assert told[0] == f"process 1 ended with exit code 5; the log of process 1, {log}, ends:"
    assert told[1:16] == lines
    assert (done.exit_code, done.silent) == (5, True)


def test_what_they_started_ends_too(crew: Crew) -> None:
    """The processes that one has started, as for data, end with it."""
    program = """
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", *sys.argv[1:]])
sys.exit(0 if rank else 4)
"""
    assert crew(program).exit_code == 4


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_again_and_again(crew: Crew, times: int) -> None:
    """One of four is killed at some instant, again and again: always all end, quickly, with the same words."""
    for time_ in range(times):
        crew.start("time.sleep(100)", 4, grace=0.05)
        victim = crew.up(0, 1, 2, 3)[time_ % 4]
        time.sleep(0.003 * time_)
        os.kill(victim, signal.SIGKILL)
        done = crew.end()
        assert done.exit_code == 1
        assert re.match(rf"process {time_ % 4} was ended by SIGKILL \(out of memory, perhaps\)\n", done.message or "")


def test_cannot_start(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a later one cannot be started, the earlier ones end, and the error is raised."""
    from ni_framework.distributed import launcher

    started: list[Any] = []
    popen = subprocess.Popen

    def scarce(*arguments: Any, **named: Any) -> Any:
        if len(started) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(popen(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(launcher.subprocess, "Popen", scarce)
    with pytest.raises(OSError, match="temporarily unavailable"):
        launcher.supervise([sys.executable, "-c", "import time; time.sleep(100)", crew.marker], 3)
    assert [process.returncode for process in started] == [-9, -9]
    monkeypatch.undo()
    assert crew.living() == []
