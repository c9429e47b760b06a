"""Stop signals to the launcher, and a launcher that is killed: all ranks end, gracefully if there is time."""

from __future__ import annotations

import signal
import time

import pytest

from tests.helpers.launcher_process import LauncherProcess

STOPPING_WORKER = """
from ni_framework.distributed.signals import exit_immediately_on_signal, graceful_shutdown
with exit_immediately_on_signal(lambda code: print("immediately", flush=True)), graceful_shutdown() as request:
    pathlib.Path(f"ready-{rank}").write_text("yes")
    while not request or os.path.exists("slow"):
        time.sleep(0.01)
        if request:
            pathlib.Path(f"signalled-{rank}").write_text("yes")
    print("stopped gracefully", flush=True)
    sys.exit(request.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75)],
)
def test_stop_signals_are_forwarded(launcher_process: LauncherProcess, number: signal.Signals, code: int) -> None:
    """All ranks stop gracefully after the first signal, and immediately after the second."""
    launcher_process.start(STOPPING_WORKER, 3)
    for rank in range(3):
        launcher_process.wait_for_file(f"ready-{rank}")
    launcher_process.process.send_signal(number)
    done = launcher_process.wait()
    assert done.exit_code == code
    assert done.message is None
    assert not done.silent
    assert "stopped gracefully" in done.out

    (launcher_process.folder / "slow").touch()
    for path in [*launcher_process.folder.glob("ready-*"), *launcher_process.folder.glob("signalled-*")]:
        path.unlink()
    launcher_process.start(STOPPING_WORKER, 3)
    for rank in range(3):
        launcher_process.wait_for_file(f"ready-{rank}")
    launcher_process.process.send_signal(number)
    for rank in range(3):
        launcher_process.wait_for_file(f"signalled-{rank}")
    assert launcher_process.process.poll() is None
    launcher_process.process.send_signal(number)
    done = launcher_process.wait()
    assert done.exit_code == code
    assert done.message is None
    assert "immediately" in done.out
    assert "stopped gracefully" not in done.out


def test_signal_before_handlers_are_installed(launcher_process: LauncherProcess) -> None:
    """A rank that a stop signal ends before it handles signals counts as stopped gracefully, and the launcher reports it."""
    launcher_process.start("time.sleep(100)")
    launcher_process.wait_for_workers(0, 1)
    launcher_process.process.send_signal(signal.SIGTERM)
    done = launcher_process.wait()
    assert (done.exit_code, done.silent) == (75, True)
    assert done.message == "stopped immediately by SIGTERM; what was saved before is not lost"


def test_worker_ignoring_signals_is_killed(launcher_process: LauncherProcess) -> None:
    """A rank that ignores stop signals is killed some time after the second one."""
    launcher_process.start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path(f'ignores-{rank}').write_text('y'); time.sleep(100)",
        grace=0.2,
    )
    for rank in range(2):
        launcher_process.wait_for_file(f"ignores-{rank}")
    for _ in range(2):
        assert launcher_process.process.poll() is None
        launcher_process.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    done = launcher_process.wait()
    assert (done.exit_code, done.silent) == (1, True)
    assert "processes 0 and 1 did not exit by themselves and were killed" in (done.message or "")


def test_ranks_have_time_to_save_after_a_graceful_stop(launcher_process: LauncherProcess) -> None:
    """After a graceful stop of one rank the others have more time than after a failure; a failure ends that time."""
    program = "time.sleep(rank * 0.8); sys.exit(75)"
    assert launcher_process(program, grace=0.1)[:3] == (75, None, False)
    done = launcher_process(
        "time.sleep(rank * 0.3); sys.exit(1 if rank == 1 else 75) if rank < 2 else time.sleep(100)", 3, grace=0.1
    )
    assert (done.exit_code, done.silent) == (1, False)
    assert done.seconds < 5


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_ranks_die_with_a_killed_launcher(launcher_process: LauncherProcess, times: int) -> None:
    """Also ranks that are suspended (SIGSTOP), or are just starting."""
    for attempt in range(times):
        launcher_process.start("os.kill(os.getpid(), signal.SIGSTOP) if rank else time.sleep(100)", 3)
        if attempt % 2 == 0:
            launcher_process.wait_for_workers(0, 1, 2)
        else:
            while len(launcher_process.running_pids()) < 3:
                time.sleep(0.005)
        launcher_process.process.kill()
        launcher_process.process.communicate()
        deadline = time.monotonic() + 5
        while launcher_process.running_pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert launcher_process.running_pids() == []
