"""The error messages and exit codes of commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import RunNi

COMMAND_ERRORS: dict[str, tuple[tuple[str, ...], int, str]] = {
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
    "patch does not divide a very large image": (
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
        "error: .: contains no checkpoint; name a folder with a checkpoint.json, or a run that has saved one\n",
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
        "error: taken: contains a run already; resume it (ni train --resume taken) or name another --output\n",
    ),
    "a file for a run folder": (
        ("train", "small.yaml", "--output", "small.yaml"),
        2,
        "error: small.yaml: is not a folder; name another with --output\n",
    ),
    "neither recipe nor run": (
        ("train",),
        2,
        "error: name a RECIPE to train, or a run to resume: ni train --resume RUN\n",
    ),
    "recipe with resume": (
        ("train", "small.yaml", "--resume", "used"),
        2,
        "error: small.yaml: --resume uses the recipe of its run; do not give another one\n",
    ),
    "resume and from together": (
        ("train", "--resume", "used", "--from", "used"),
        2,
        "error: --from starts a new run with the weights of a checkpoint, --resume continues a run; give only one of them\n",
    ),
    "nothing to resume": (
        ("train", "--resume", "used"),
        6,
        "error: used: contains no checkpoint; name a folder with a checkpoint.json, or a run that has saved one\n",
    ),
    "seed with resume": (
        ("train", "--resume", "used", "seed=3"),
        2,
        "error: seed=3: a resumed run keeps its settings; only train.steps, train.log_every, train.evaluate_every, "
        "train.workers, train.micro_batches, train.activation_checkpointing, train.skip.max_consecutive and engine may "
        "change; to train these weights with other settings, use ni train RECIPE --from\n",
    ),
}


@pytest.mark.parametrize("name", COMMAND_ERRORS)
def test_error(name: str, ni: RunNi, small_recipe_dir: Path) -> None:
    """The text is at the end of stderr, and the exit code is as documented; with --json a document contains both."""
    arguments, code, text = COMMAND_ERRORS[name]
    (small_recipe_dir / "typo.yaml").write_text(
        (small_recipe_dir / "small.yaml").read_text().replace("width:", "widht:")
    )
    (small_recipe_dir / "used" / "checkpoints").mkdir(parents=True)
    (small_recipe_dir / "taken" / "checkpoints" / "step-1").mkdir(parents=True)
    (small_recipe_dir / "taken" / "checkpoints" / "step-1" / "checkpoint.json").write_text("{}")
    if "{attrs}" in text:
        from importlib.metadata import version

        text = text.format(attrs=version("attrs"))
    result = ni(*arguments)
    assert result.code == code
    assert result.out == ""
    assert text in result.err if "requires" in arguments[-1] else result.err.endswith(text)
    error = ni(*arguments, "--json").json["error"]
    assert error["exit_code"] == code
    if code in (3, 4):
        assert error["problems"][-1]["message"] in text


def test_missing_data(ni: RunNi, small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing data ends with exit code 1, before a run folder is created."""
    from ni_framework.errors import RunError

    def raise_missing(self: object) -> None:
        raise RunError("data: digits.npz is expected in data/; put it there")

    monkeypatch.setattr("ni_standard.data.digits.Digits.open", raise_missing)
    result = ni("train", "small.yaml", "--output", "run")
    assert (result.code, result.err) == (1, "error: data: digits.npz is expected in data/; put it there\n")
    assert not (small_recipe_dir / "run").exists()


def test_internal_error(ni: RunNi, small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is reported without a traceback; NI_DEBUG=1 shows the traceback."""

    def fail(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("ni_framework.registry.load_recipe", fail)
    result = ni("check", "small.yaml")
    assert result.code == 1
    assert (
        result.err
        == "error: ni itself failed: KeyError: 'oops'\n  help: set NI_DEBUG=1 for the traceback and report it\n"
    )
    monkeypatch.setenv("NI_DEBUG", "1")
    with pytest.raises(KeyError):
        ni("check", "small.yaml")


def test_read_only_folder(ni: RunNi, small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the file system is one line that names the path."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "runs")

    monkeypatch.setattr(Path, "mkdir", refuse)
    result = ni("train", "small.yaml")
    assert (result.code, result.err) == (
        1,
        "error: runs: Permission denied; check the path, its permissions and the space left\n",
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_interrupted_run_is_saved(number: signal.Signals, code: int, small_recipe_dir: Path) -> None:
    """A signal ends the run after the current step, with a checkpoint from which it can be resumed."""
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
        metrics = small_recipe_dir / "run" / "metrics.jsonl"
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
    (checkpoint,) = (small_recipe_dir / "run" / "checkpoints").glob("step-*")
    assert f"saved as run/checkpoints/{checkpoint.name}" in err
    assert "continue with ni train --resume run" in err
    step = int(checkpoint.name.removeprefix("step-"))
    result = subprocess.run(
        [*command[:-1], "--resume", "run", f"train.steps={step + 2}", "--json"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["checkpoint"] == f"run/checkpoints/step-{step + 2}"
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    # The last two lines are of the same step: one of training, one of the evaluation.
    assert steps == [*range(step + 3), step + 2]
