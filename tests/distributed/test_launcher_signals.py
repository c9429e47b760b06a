"""Processes that are asked to stop together, or whose supervisor is killed: all end, in order where there is time."""

from __future__ import annotations

import signal
import time

import pytest

from tests.helpers.launcher_process import Crew

STOPPING = """
from ni_framework.distributed.signals import exits_at_once, stop_requests
with exits_at_once(lambda code: print("at once", flush=True)), stop_requests() as request:
    pathlib.Path(f"listens-{rank}").write_text("yes")
    while not request or os.path.exists("slow"):
        time.sleep(0.01)
        if request:
            pathlib.Path(f"asked-{rank}").write_text("yes")
    print("wrote it all", flush=True)
    sys.exit(request.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)],
)
def test_asked_to_stop(crew: Crew, number: signal.Signals, code: int) -> None:
    """A request goes on to each; the second one too, which they answer at once."""
    crew.start(STOPPING, 3)
    for rank in range(3):
        crew.written(f"listens-{rank}")
    crew.process.send_signal(number)
    done = crew.end()
    assert (done.exit_code, done.message, done.silent) == (code, None, False)
    assert "wrote it all" in done.out

    (crew.folder / "slow").touch()
    for path in [*crew.folder.glob("listens-*"), *crew.folder.glob("asked-*")]:
        path.unlink()
    crew.start(STOPPING, 3)
    for rank in range(3):
        crew.written(f"listens-{rank}")
    crew.process.send_signal(number)
    for rank in range(3):
        crew.written(f"asked-{rank}")
    assert crew.process.poll() is None
    crew.process.send_signal(number)
    done = crew.end()
    assert (done.exit_code, done.message) == (code, None)
    assert "at once" in done.out
    assert "wrote it all" not in done.out


def test_asked_before_it_listens(crew: Crew) -> None:
    """A signal that comes before a process knows what to do with it has still stopped it in order, and that is told."""
    crew.start("time.sleep(100)")
    crew.up(0, 1)
    crew.process.send_signal(signal.SIGTERM)
    done = crew.end()
    assert (done.exit_code, done.silent) == (75, True)
    assert done.message == "stopped at once by SIGTERM; nothing is lost that was saved before"


def test_deaf_to_requests(crew: Crew) -> None:
    """A process that ignores them is ended some time after the second."""
    crew.start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path(f'deaf-{rank}').write_text('y'); time.sleep(100)",
        grace=0.2,
    )
    for rank in range(2):
        crew.written(f"deaf-{rank}")
    for _ in range(2):
        assert crew.process.poll() is None
        crew.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    done = crew.end()
    assert (done.exit_code, done.silent) == (1, True)
    assert "processes 0 and 1 did not end by themselves and were killed" in (done.message or "")


def test_time_to_save(crew: Crew) -> None:
    """Once one has stopped in order, the others have longer than after a failure; then it is no order any more."""
    program = "time.sleep(rank * 0.8); sys.exit(75)"
    assert crew(program, grace=0.1)[:3] == (75, None, False)
    done = crew(
        "time.sleep(rank * 0.3); sys.exit(1 if rank == 1 else 75) if rank < 2 else time.sleep(100)", 3, grace=0.1
    )
    assert (done.exit_code, done.silent) == (1, False)
    assert done.seconds < 5


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_supervisor_is_killed(crew: Crew, times: int) -> None:
    """Even then none is left, one that is halted neither, whether they had started or were about to."""
    for time_ in range(times):
        crew.start("os.kill(os.getpid(), signal.SIGSTOP) if rank else time.sleep(100)", 3)
        if time_ % 2 == 0:
            crew.up(0, 1, 2)
        else:
            while len(crew.living()) < 3:
                time.sleep(0.005)
        crew.process.kill()
        crew.process.communicate()
        until = time.monotonic() + 5
        while crew.living() and time.monotonic() < until:
            time.sleep(0.02)
        assert crew.living() == []
