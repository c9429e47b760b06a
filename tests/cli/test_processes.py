"""`ni train --processes`: what is checked before anything starts, what is started, and what is said of its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.distributed import launcher
from ni_framework.distributed.exit_report import Verdict
from ni_framework.registry.file_plugins import forget_files
from tests.cli.conftest import Ni
from tests.helpers.small_recipe import save_small, small_recipe

ZERO = "engine.use=zero"


class Supervisor:
    """Stands in for the one that starts processes: notes what it should start, and gives a verdict."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.verdict = Verdict(0, None)

    def __call__(self, command: list[str], number: int) -> Verdict:
        self.calls.append((command, number))
        return self.verdict


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """In place of the real one."""
    monkeypatch.delenv("RANK", raising=False)
    made = Supervisor()
    monkeypatch.setattr(launcher, "supervise", made)
    yield made
    forget_files()


NEEDS_ZERO = (
    "error: --processes needs engine.use=zero: with engine.use=local one process trains alone; "
    "add engine.use=zero, or leave --processes out\n"
)
REFUSED = {
    "none": (("train", "small.yaml", "--processes", 0), 2, "0 is not in the range x>=1"),
    "one process by nature": (("train", "small.yaml", "--processes", 2), 2, NEEDS_ZERO),
    "resumed": (("train", "--resume", "saved", "--processes", 2), 2, NEEDS_ZERO),
    "typo": (("train", "small.yaml", "train.stepz=3", ZERO, "--processes", 2), 3, "did you mean `steps`?"),
    "no such recipe": (("train", "other.yaml", "--processes", 2), 3, "other.yaml"),
    "nothing to resume": (
        ("train", "--resume", "nowhere", "--processes", 2),
        6,
        "error: nowhere: there is no such checkpoint; name a checkpoint folder or a run folder\n",
    ),
    "nothing named": (
        ("train", "--processes", 2),
        2,
        "error: name a RECIPE to train, or a run to go on with: ni train --resume RUN\n",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(ni: Ni, small: Path, supervisor: Supervisor, case: str) -> None:
    """Told once, with nothing started and nothing written."""
    save_small(small / "saved", small_recipe(small), 2)
    arguments, code, text = REFUSED[case]
    done = ni(*arguments)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert supervisor.calls == []
    assert not (small / "runs").exists()


@pytest.mark.parametrize("number", [1, 2])
def test_two_launchers(
    ni: Ni, small: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Processes of a launcher start none themselves."""
    monkeypatch.setenv("RANK", "0")
    done = ni("train", "small.yaml", ZERO, "--processes", number)
    assert (done.code, done.out, supervisor.calls) == (2, "", [])
    assert done.err == (
        "error: --processes starts the processes itself, and another launcher has started this one (RANK is set); "
        "leave --processes out, or run ni train without the launcher\n"
    )


def test_one_trains_here(ni: Ni, small: Path, supervisor: Supervisor) -> None:
    """As without the option."""
    assert ni("train", "small.yaml", "--processes", 1, "--output", "run").code == 0
    assert supervisor.calls == []
    assert (small / "run" / "checkpoints").is_dir()


def test_what_is_started(ni: Ni, small: Path, supervisor: Supervisor) -> None:
    """The same command without the option, through this Python, with nothing imported from the current folder."""
    options = ["--output=my run", "--every=2", "--keep=3", "--from=a b", "--tensorboard", "--json"]
    done = ni(
        "train", *options, "--plugin", "my plugin.py", "--processes", 3, "--", "small.yaml", ZERO, "train.steps=4"
    )
    assert (done.code, done.out, done.err) == (0, "", "")
    ((command, number),) = supervisor.calls
    assert number == 3
    assert command[:6] == [sys.executable, "-P", "-m", "ni_framework", "train", "--plugin"]
    assert command[6] == "my plugin.py"
    assert command[7:13] == options
    assert command[13:] == ["--", "small.yaml", ZERO, "train.steps=4"]


def test_resumed(ni: Ni, small: Path, supervisor: Supervisor) -> None:
    """The first of what follows is then an override, and no recipe."""
    save_small(small / "saved", small_recipe(small, ZERO), 2)
    assert ni("train", "--resume", "saved", "--processes", 2, "train.steps=9").code == 0
    ((command, _),) = supervisor.calls
    assert command[5:] == ["--resume=saved", "--", "train.steps=9"]


def test_what_is_said(ni: Ni, small: Path, supervisor: Supervisor) -> None:
    """On stderr always; on stdout only if process 0 could not."""
    supervisor.verdict = Verdict(7, "process 1 was ended by SIGKILL")
    train = ("train", "small.yaml", ZERO, "--processes", 2)
    said = "error: process 1 was ended by SIGKILL\n"
    assert ni(*train) == (7, "", said)
    assert ni(*train, "--json") == (7, "", said)
    supervisor.verdict = Verdict(7, "process 1 was ended by SIGKILL", silent=True)
    assert ni(*train) == (7, "", said)
    done = ni(*train, "--json")
    assert (done.code, done.err) == (7, said)
    assert done.json == {"error": {"exit_code": 7, "message": "process 1 was ended by SIGKILL"}}
    supervisor.verdict = Verdict(75, None)
    assert ni(*train, "--json") == (75, "", "")


def test_module_is_the_command(small: Path) -> None:
    """`python -m ni_framework` is `ni`, and takes nothing from the current folder either."""
    (small / "click.py").write_text("raise SystemExit('imported from the current folder')")
    command = [sys.executable, "-m", "ni_framework"]
    done = subprocess.run([*command, "train", "absent.yaml"], capture_output=True, text=True)
    assert done.returncode == 3
    assert "absent.yaml" in done.stderr
    environment = os.environ | {"NI_SUPERVISED": "1", "NI_SUPERVISOR": "1"}
    orphan = subprocess.run([*command, "--version"], env=environment, capture_output=True)
    assert (orphan.returncode, orphan.stdout) == (-9, b"")  # its supervisor has ended before it could join
