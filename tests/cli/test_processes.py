"""`ni train --processes`: what is checked before anything starts, which commands start, and how their end is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.distributed import launcher
from ni_framework.distributed.exit_report import LaunchResult
from ni_framework.registry.file_plugins import clear_plugin_files
from tests.cli.conftest import RunNi
from tests.helpers.small_recipe import load_small_recipe, save_small_checkpoint

USE_ZERO = "engine.use=zero"


class FakeLauncher:
    """Replaces the launcher: records the commands that it should start, and returns a given result."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.result = LaunchResult(0, None)

    def __call__(self, command: list[str], number: int) -> LaunchResult:
        self.calls.append((command, number))
        return self.result


@pytest.fixture
def fake_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLauncher]:
    """Replaces the real launcher."""
    monkeypatch.delenv("RANK", raising=False)
    fake = FakeLauncher()
    monkeypatch.setattr(launcher, "launch_workers", fake)
    yield fake
    clear_plugin_files()


NEEDS_ZERO = (
    "error: --processes needs engine.use=zero: with engine.use=local one process trains alone; "
    "add engine.use=zero, or remove --processes\n"
)
INVALID_PROCESSES = {
    "zero processes": (("train", "small.yaml", "--processes", 0), 2, "0 is not in the range x>=1"),
    "local engine": (("train", "small.yaml", "--processes", 2), 2, NEEDS_ZERO),
    "resumed local engine": (("train", "--resume", "saved", "--processes", 2), 2, NEEDS_ZERO),
    "typo": (("train", "small.yaml", "train.stepz=3", USE_ZERO, "--processes", 2), 3, "did you mean `steps`?"),
    "no such recipe": (("train", "other.yaml", "--processes", 2), 3, "other.yaml"),
    "nothing to resume": (
        ("train", "--resume", "nowhere", "--processes", 2),
        6,
        "error: nowhere: there is no such checkpoint; name a checkpoint folder or a run folder\n",
    ),
    "neither recipe nor run": (
        ("train", "--processes", 2),
        2,
        "error: name a RECIPE to train, or a run to resume: ni train --resume RUN\n",
    ),
}


@pytest.mark.parametrize("case", INVALID_PROCESSES)
def test_invalid_processes(ni: RunNi, small_recipe_dir: Path, fake_launcher: FakeLauncher, case: str) -> None:
    """The error is reported once; nothing is started or written."""
    save_small_checkpoint(small_recipe_dir / "saved", load_small_recipe(small_recipe_dir), 2)
    arguments, code, text = INVALID_PROCESSES[case]
    result = ni(*arguments)
    assert (result.code, result.out) == (code, "")
    assert text in result.err
    assert fake_launcher.calls == []
    assert not (small_recipe_dir / "runs").exists()


@pytest.mark.parametrize("number", [1, 2])
def test_processes_under_another_launcher(
    ni: RunNi, small_recipe_dir: Path, fake_launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A process that a launcher has started does not start processes itself."""
    monkeypatch.setenv("RANK", "0")
    result = ni("train", "small.yaml", USE_ZERO, "--processes", number)
    assert (result.code, result.out) == (2, "")
    assert fake_launcher.calls == []
    assert result.err == (
        "error: --processes starts the processes itself, and another launcher has started this one (RANK is set); "
        "remove --processes, or run ni train without the launcher\n"
    )


def test_one_process_needs_no_launcher(ni: RunNi, small_recipe_dir: Path, fake_launcher: FakeLauncher) -> None:
    assert ni("train", "small.yaml", "--processes", 1, "--output", "run").code == 0
    assert fake_launcher.calls == []
    assert (small_recipe_dir / "run" / "checkpoints").is_dir()


def test_started_commands(ni: RunNi, small_recipe_dir: Path, fake_launcher: FakeLauncher) -> None:
    """Workers run the same command without `--processes`, and import nothing from the current folder."""
    options = ["--output=my run", "--every=2", "--keep-last=3", "--from=a b", "--tensorboard", "--json"]
    result = ni(
        "train", *options, "--plugin", "my plugin.py", "--processes", 3, "--", "small.yaml", USE_ZERO, "train.steps=4"
    )
    assert (result.code, result.out, result.err) == (0, "", "")
    ((command, number),) = fake_launcher.calls
    assert number == 3
    assert command[:6] == [sys.executable, "-P", "-m", "ni_framework", "train", "--plugin"]
    assert command[6] == "my plugin.py"
    assert command[7:13] == options
    assert command[13:] == ["--", "small.yaml", USE_ZERO, "train.steps=4"]


def test_resume_passes_overrides(ni: RunNi, small_recipe_dir: Path, fake_launcher: FakeLauncher) -> None:
    """With --resume, the first positional argument is an override, not a recipe."""
    save_small_checkpoint(small_recipe_dir / "saved", load_small_recipe(small_recipe_dir, USE_ZERO), 2)
    assert ni("train", "--resume", "saved", "--processes", 2, "train.steps=9").code == 0
    ((command, _),) = fake_launcher.calls
    assert command[5:] == ["--resume=saved", "--", "train.steps=9"]


def test_reported_exit(ni: RunNi, small_recipe_dir: Path, fake_launcher: FakeLauncher) -> None:
    """The error is on stderr; on stdout it is only if rank 0 could not print a document itself."""
    fake_launcher.result = LaunchResult(7, "process 1 was ended by SIGKILL")
    train = ("train", "small.yaml", USE_ZERO, "--processes", 2)
    message = "error: process 1 was ended by SIGKILL\n"
    assert ni(*train) == (7, "", message)
    assert ni(*train, "--json") == (7, "", message)
    fake_launcher.result = LaunchResult(7, "process 1 was ended by SIGKILL", rank_zero_silent=True)
    assert ni(*train) == (7, "", message)
    result = ni(*train, "--json")
    assert (result.code, result.err) == (7, message)
    assert result.json == {"error": {"exit_code": 7, "message": "process 1 was ended by SIGKILL"}}
    fake_launcher.result = LaunchResult(75, None)
    assert ni(*train, "--json") == (75, "", "")


def test_python_m_ni_framework(small_recipe_dir: Path) -> None:
    """`python -m ni_framework` is the command `ni`, and imports nothing from the current folder either."""
    (small_recipe_dir / "click.py").write_text("raise SystemExit('imported from the current folder')")
    command = [sys.executable, "-m", "ni_framework"]
    result = subprocess.run([*command, "train", "absent.yaml"], capture_output=True, text=True)
    assert result.returncode == 3
    assert "absent.yaml" in result.stderr
    environment = os.environ | {"NI_SUPERVISED": "1", "NI_SUPERVISOR": "1"}
    orphan = subprocess.run([*command, "--version"], env=environment, capture_output=True)
    # A worker kills itself if its supervisor has ended before it starts.
    assert orphan.returncode == -9
    assert orphan.stdout == b""
