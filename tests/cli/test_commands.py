"""Every verb: its result on stdout, its narration on stderr, one document with --json, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ni_framework.cli.app import VERBS
from ni_framework.cli.output import emit
from tests.cli.conftest import Ni

LIGHT = {"ni_framework", "ni_standard"}


def imported(*arguments: str) -> set[str]:
    """The top-level packages that a command imports."""
    code = (
        "import sys; sys.argv = ['ni', *sys.argv[1:]]\n"
        "from ni_framework.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_light_commands_import_no_torch_and_no_plugin() -> None:
    """`--help` and `ls` answer from what is at hand."""
    assert not {"torch", "ni_standard", "numpy", "rich", "yaml", "deepspeed"} & imported("--help")
    assert not {"torch", "ni_standard", "deepspeed"} & imported("ls")


def test_check_imports_torch_only_for_components(small: Path) -> None:
    """A recipe that cannot be read needs none; deepspeed is never imported."""
    (small / "broken.yaml").write_text("ni: [1\n")
    assert not {"torch", "ni_standard"} & imported("check", "broken.yaml")
    assert "deepspeed" not in imported("check", "small.yaml")


def test_help_lists_every_verb(ni: Ni) -> None:
    """And every verb has its own."""
    listed = ni("--help").out
    for verb in VERBS:
        assert f"  {verb} " in listed
        own = ni(verb, *{"new": ["recipe"], "plugin": ["test"]}.get(verb, []), "--help")
        assert own.code == 0
        assert "--json" in own.out


def test_check(ni: Ni, small: Path) -> None:
    """Says what the model is."""
    done = ni("check", "small.yaml")
    assert (done.code, done.err) == (0, "")
    assert done.out == "small.yaml: ok, 1,806 parameters, 5 elements, 3 functions x 2 iterations\n"
    document = ni("check", "small.yaml", "model.scripts=2", "--json").json
    assert document["ok"] is True
    assert document["scripts"] == [[3, 2], [3, 2]]
    assert document["tasks"] == {"digits": 10}


def test_show_recipe_is_a_recipe(ni: Ni, small: Path) -> None:
    """What `show` prints above its table is the recipe, complete."""
    shown = ni("show", "small.yaml", "train.steps=7")
    assert shown.code == 0
    assert "scripts.0.embedding.code" in shown.out
    complete = shown.out.partition("\n# ")[0]
    assert "steps: 7" in complete
    assert "clip: 1.0" in complete
    (small / "complete.yaml").write_text(complete)
    again = ni("show", "complete.yaml", "--json").json
    assert again["recipe"].strip() == complete.strip()
    assert {"name": "scripts.0.embedding.code", "shape": [3, 5]} in again["parameters"]


def test_show_component(ni: Ni) -> None:
    """By name, or by kind and name: what it does, where it is from, and its options."""
    shown = ni("show", "kernel")
    assert shown.out == ni("show", "router/kernel").out
    assert "router kernel, from ni-framework" in shown.out
    assert "Source: Neural Interpreters" in shown.out
    (document,) = ni("show", "kernel", "--json").json
    options = {option["name"]: option for option in document["options"]}
    assert options["bandwidth"]["default"] == "1.0"
    assert options["truncation"]["help"].startswith("distance")


def test_ls_lists_the_standard_components(ni: Ni) -> None:
    """With kind, name, distribution and version."""
    document = ni("ls", "--json").json
    assert {"kind": "body", "name": "lines_of_code"} in [{"kind": row["kind"], "name": row["name"]} for row in document]
    assert "lines_of_code" in ni("ls").out


def test_train_and_eval(ni: Ni, small: Path) -> None:
    """From a recipe to a checkpoint that gives the same figures from its files alone."""
    done = ni("train", "small.yaml", "train.steps=4", "--output", "run", "--json")
    assert done.code == 0, done.err
    summary = done.json
    assert summary.keys() == {"run", "checkpoint", "parameters", "seconds", "metrics"}
    assert summary["run"] == "run"
    assert summary["parameters"] == 1806
    assert {"train/loss", "test/loss", "test/accuracy"} <= summary["metrics"].keys()
    assert "next: ni eval run" in done.err
    (small / "small.yaml").unlink()
    for path in ("run", summary["checkpoint"]):
        metrics = ni("eval", path, "--json").json["metrics"]
        assert metrics == {name: value for name, value in summary["metrics"].items() if name.startswith("test/")}
    assert ni("eval", "run", "model.iterations=3").code == 0


def test_train_narrates_on_stderr(ni: Ni, small: Path) -> None:
    """Without a terminal: one line an interval, no bar; the result stands on stdout."""
    done = ni("train", "small.yaml", "train.evaluate_every=2", "--every", 4, "--output", "run")
    lines = done.err.splitlines()
    assert lines[0] == "small: 1,806 parameters, 6 steps of 8, in run"
    assert lines[1].startswith("routing at step 0: ")
    for step in (2, 4, 6):
        assert any(line.startswith(f"step {step}/6  loss ") and "images/s" in line and "use " in line for line in lines)
    assert any(line.startswith("step 2/6  test/accuracy ") for line in lines)
    assert "step 4/6  saved run/checkpoints/step-4" in lines
    assert "\r" not in done.err
    assert "\x1b" not in done.err
    assert done.out.splitlines()[0].startswith("held-out accuracy")
    assert "run/checkpoints/step-6" in done.out


def test_default_run_folder(ni: Ni, small: Path) -> None:
    """Below runs/, by recipe and time."""
    summary = ni("train", "small.yaml", "train.steps=1", "--json").json
    assert Path(summary["run"]).parent == Path("runs/small")
    assert (small / summary["checkpoint"] / "model.safetensors").is_file()


def test_train_from_takes_weights(ni: Ni, small: Path) -> None:
    """With a learning rate of next to nothing, the model stays what it was."""
    ni("train", "small.yaml", "--output", "first")
    first = ni("eval", "first", "--json").json["metrics"]
    again = ni(
        "train", "small.yaml", "seed=8", "train.optimizer.lr=1e-12", "--from", "first", "--output", "second", "--json"
    )
    for name, value in again.json["metrics"].items():
        if name.startswith("test/"):
            assert value == pytest.approx(first[name], abs=1e-5)


def test_json_knows_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    """So that any reader can read it."""
    emit({"a": [1.5, float("nan")], "b": {"c": (float("inf"), "text", True, None)}}, "", as_json=True)
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert document == {"a": [1.5, None], "b": {"c": [None, "text", True, None]}}
