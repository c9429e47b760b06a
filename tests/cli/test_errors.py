"""What is said when a command cannot do what it was asked, and the exit code that goes with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Ni

CASES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "unknown command": (("tain",), 2, "error: there is no command 'tain'; did you mean 'train'?\n  help: ni --help\n"),
    "unknown flag": (
        ("check", "small.yaml", "--jsn"),
        2,
        "error: No such option '--jsn'. Did you mean '--json'?\n  help: ni check --help\n",
    ),
    "absent recipe": (("check", "nope.yaml"), 3, "nope.yaml: error: there is no such file\n"),
    "a typo": (
        ("check", "typo.yaml"),
        3,
        "typo.yaml:4:3: error: model.widht: unknown key\n      widht: 12\n      ^\n  help: did you mean `width`?\n",
    ),
    "an override": (
        ("train", "small.yaml", "train.stps=3"),
        3,
        "override 'train.stps=3': error: train.stps: unknown key\n    train.stps=3\n          ^\n"
        "  help: did you mean `steps`?\n",
    ),
    "unknown component": (
        ("check", "small.yaml", "model.body.linear=modln"),
        3,
        "override 'model.body.linear=modln': error: model.body.linear: there is no linear `modln`\n"
        "    model.body.linear=modln\n                      ^\n"
        "  help: did you mean `modlin`? installed are: gated, hyper, modlin, plain\n",
    ),
    "patch does not divide": (
        ("check", "small.yaml", "model.input.patch=3"),
        3,
        "override 'model.input.patch=3': error: model.input.patch: a patch of 3 does not divide the image's 8 rows\n"
        "    model.input.patch=3\n                      ^\n  help: patches that fit: 1, 2, 4, 8\n",
    ),
    "patch does not divide more than could be counted": (
        ("check", "small.yaml", "model.input.image=[1,1000000000000,8]", "model.input.patch=3"),
        3,
        "override 'model.input.patch=3': error: model.input.patch: a patch of 3 does not divide the image's 1000000000000 rows\n"
        "    model.input.patch=3\n                      ^\n  help: patches that fit: 1, 2, 4, 8\n",
    ),
    "heads do not divide": (
        ("check", "small.yaml", "model.body.heads=5"),
        3,
        "override 'model.body.heads=5': error: model.body.heads: 5 heads cannot share a width of 12\n"
        "    model.body.heads=5\n                     ^\n"
        "  help: choose a number of heads that divides model.width, as 4 does\n",
    ),
    "image and data differ": (
        ("check", "small.yaml", "model.input.image=[3, 8, 8]"),
        3,
        "small.yaml:5:10: error: model.input: takes inputs of shape [3, 8, 8], but the data (digits) has [1, 8, 8]\n"
        "      input: {use: patches, image: [1, 8, 8], patch: 4}\n             ^\n  help: make the two shapes equal\n",
    ),
    "requirement absent": (
        ("check", "small.yaml", "requires=[ni-nowhere>=1]"),
        4,
        "override 'requires=[ni-nowhere>=1]': error: requires.0: ni-nowhere is not installed\n"
        "    requires=[ni-nowhere>=1]\n              ^\n  help: pip install 'ni-nowhere>=1'\n",
    ),
    "requirement too new": (
        ("check", "small.yaml", "requires=[attrs>=9999]"),
        4,
        "requires.0: attrs {attrs} does not meet attrs>=9999\n",
    ),
    "all pairs closed": (
        ("train", "small.yaml", "model.router.truncation=1.0e-6"),
        1,
        "error: every pair of function and element is closed at step 0: nothing would be computed and no gradient could open "
        "one; raise model.router.truncation (1.42 opens nearly all pairs, 1.0 half of them)\n",
    ),
    "absent checkpoint": (
        ("eval", "nowhere"),
        6,
        "error: nowhere: there is no such checkpoint; name a checkpoint folder or a run folder\n",
    ),
    "foreign checkpoint": (
        ("eval", "."),
        6,
        "error: .: holds no checkpoint; name a folder with a checkpoint.json, or a run that has saved one\n",
    ),
    "unknown component to show": (
        ("show", "kernl"),
        3,
        "error: there is no component `kernl`\n  help: `ni ls` lists all\n",
    ),
    "overrides for a component": (
        ("show", "kernel", "a=1"),
        2,
        "error: kernel is a component, and overrides (a=1) change recipes; name a recipe instead\n",
    ),
    "a run folder in use": (
        ("train", "small.yaml", "--output", "taken"),
        2,
        "error: taken: holds a run already; go on with it (ni train --resume taken) or name another --output\n",
    ),
    "a file for a run folder": (
        ("train", "small.yaml", "--output", "small.yaml"),
        2,
        "error: small.yaml: is no folder; name another with --output\n",
    ),
    "neither a recipe nor a run": (
        ("train",),
        2,
        "error: name a RECIPE to train, or a run to go on with: ni train --resume RUN\n",
    ),
    "a recipe for a run that has one": (
        ("train", "small.yaml", "--resume", "used"),
        2,
        "error: small.yaml: --resume takes the recipe of its run; leave the recipe out\n",
    ),
    "resumed and begun at once": (
        ("train", "--resume", "used", "--from", "used"),
        2,
        "error: --from begins a new run with a checkpoint's weights, --resume goes on with a run; give one of them\n",
    ),
    "nothing to resume": (
        ("train", "--resume", "used"),
        6,
        "error: used: holds no checkpoint; name a folder with a checkpoint.json, or a run that has saved one\n",
    ),
    "a seed for a run that has one": (
        ("train", "--resume", "used", "seed=3"),
        2,
        "error: seed=3: a resumed run goes on as it began; only train.steps, train.log_every, train.evaluate_every, "
        "train.workers, train.accumulate, train.recompute, train.skip.budget and engine may change; to train these weights "
        "otherwise, use ni train RECIPE --from\n",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_error(name: str, ni: Ni, small: Path) -> None:
    """The text ends stderr, and the exit code is the documented one; with --json both stand in a document."""
    arguments, code, text = CASES[name]
    (small / "typo.yaml").write_text((small / "small.yaml").read_text().replace("width:", "widht:"))
    (small / "used" / "checkpoints").mkdir(parents=True)
    (small / "taken" / "checkpoints" / "step-1").mkdir(parents=True)
    (small / "taken" / "checkpoints" / "step-1" / "checkpoint.json").write_text("{}")
    if "{attrs}" in text:
        from importlib.metadata import version

        text = text.format(attrs=version("attrs"))
    done = ni(*arguments)
    assert done.code == code
    assert done.out == ""
    assert text in done.err if "requires" in arguments[-1] else done.err.endswith(text)
    error = ni(*arguments, "--json").json["error"]
    assert error["exit_code"] == code
    if code in (3, 4):
        assert error["problems"][-1]["message"] in text


def test_data_absent_is_a_failed_run(ni: Ni, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, before a run folder is made."""
    from ni_framework.errors import RunError

    def absent(self: object) -> None:
        raise RunError("data: digits.npz is expected in data/; put it there")

    monkeypatch.setattr("ni_standard.data.digits.Digits.open", absent)
    done = ni("train", "small.yaml", "--output", "run")
    assert (done.code, done.err) == (1, "error: data: digits.npz is expected in data/; put it there\n")
    assert not (small / "run").exists()


def test_a_fault_of_our_own_is_admitted(ni: Ni, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a traceback; NI_DEBUG=1 shows it."""

    def fail(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("ni_framework.registry.load_recipe", fail)
    done = ni("check", "small.yaml")
    assert done.code == 1
    assert (
        done.err
        == "error: ni itself failed: KeyError: 'oops'\n  help: set NI_DEBUG=1 for the traceback and report it\n"
    )
    monkeypatch.setenv("NI_DEBUG", "1")
    with pytest.raises(KeyError):
        ni("check", "small.yaml")


def test_read_only_folder(ni: Ni, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the path."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "runs")

    monkeypatch.setattr(Path, "mkdir", refuse)
    done = ni("train", "small.yaml")
    assert (done.code, done.err) == (
        1,
        "error: runs: Permission denied; check the path, its permissions and the space left\n",
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_interrupted_run_is_saved(number: signal.Signals, code: int, small: Path) -> None:
    """A signal ends the run after its step with a checkpoint that can be evaluated."""
    command = [sys.executable, "-c", "from ni_framework.cli import main; main()", "train", "small.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [*command, "train.steps=100000", "train.log_every=1", "--output", "run"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        metrics = small / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == code
    assert "Traceback" not in err
    assert out == ""
    assert "error: interrupted after step " in err
    (checkpoint,) = (small / "run" / "checkpoints").glob("step-*")
    assert f"saved as run/checkpoints/{checkpoint.name}" in err
    assert "go on with ni train --resume run" in err
    step = int(checkpoint.name.removeprefix("step-"))
    done = subprocess.run(
        [*command[:-1], "--resume", "run", f"train.steps={step + 2}", "--json"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checkpoint"] == f"run/checkpoints/step-{step + 2}"
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [*range(step + 3), step + 2]  # the last line but one of training, the last of evaluation
