"""Every command: its result on stdout, status messages on stderr, one document with --json, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ni_framework.cli.app import COMMANDS
from ni_framework.cli.output import emit
from tests.cli.conftest import RunNi

OWN_PACKAGES = {"ni_framework", "ni_standard"}


def imported_packages(*arguments: str) -> set[str]:
    """Returns the top-level packages that a command imports."""
    code = (
        "import sys; sys.argv = ['ni', *sys.argv[1:]]\n"
        "from ni_framework.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


def test_light_commands_import_no_torch_and_no_plugin() -> None:
    """`--help` and `ls` need no heavy imports."""
    assert not {"torch", "ni_standard", "numpy", "rich", "yaml", "deepspeed"} & imported_packages("--help")
    assert not {"torch", "ni_standard", "deepspeed"} & imported_packages("ls")


@pytest.mark.slow
def test_check_imports_torch_only_for_components(small_recipe_dir: Path) -> None:
    """An invalid YAML file does not need torch; deepspeed is never imported."""
    (small_recipe_dir / "broken.yaml").write_text("ni: [1\n")
    assert not {"torch", "ni_standard"} & imported_packages("check", "broken.yaml")
    assert "deepspeed" not in imported_packages("check", "small.yaml")


def test_help_lists_every_command(ni: RunNi) -> None:
    """`ni --help` lists every command, and every command has its own help."""
    group_help = ni("--help").out
    for command in COMMANDS:
        assert f"  {command} " in group_help
        command_help = ni(command, *{"new": ["recipe"], "plugin": ["test"]}.get(command, []), "--help")
        assert command_help.code == 0
        assert "--json" in command_help.out


def test_keep_names_keep_last(ni: RunNi, small_recipe_dir: Path) -> None:
    """The former option --keep is hidden, and its use is an error of one line that names --keep-last."""
    for arguments in (("--keep", "2"), ("--keep=2",), ("--keep",)):
        result = ni("train", "small.yaml", "--output", "run", *arguments)
        assert result.code == 2
        assert result.err == "error: --keep is now called --keep-last; use --keep-last N\n"
    assert not (small_recipe_dir / "run").exists()
    assert "--keep " not in ni("train", "--help").out


def test_check(ni: RunNi, small_recipe_dir: Path) -> None:
    """`ni check` prints the sizes of the model."""
    result = ni("check", "small.yaml")
    assert (result.code, result.err) == (0, "")
    assert result.out == "small.yaml: ok, 1,806 parameters, 5 elements, 3 functions x 2 iterations\n"
    document = ni("check", "small.yaml", "model.scripts=2", "--json").json
    assert document["ok"] is True
    assert document["scripts"] == [[3, 2], [3, 2]]
    assert document["tasks"] == {"digits": 10}


def test_show_prints_complete_recipe(ni: RunNi, small_recipe_dir: Path) -> None:
    """The text above the tables is a complete recipe, which can be read again."""
    result = ni("show", "small.yaml", "train.steps=7")
    assert result.code == 0
    assert "scripts.0.embedding.code" in result.out
    complete = result.out.partition("\n# ")[0]
    assert "steps: 7" in complete
    assert "max_grad_norm: 1.0" in complete
    (small_recipe_dir / "complete.yaml").write_text(complete)
    again = ni("show", "complete.yaml", "--json").json
    assert again["recipe"].strip() == complete.strip()
    assert {"name": "scripts.0.embedding.code", "shape": [3, 5]} in again["parameters"]


@pytest.mark.slow
def test_show_component(ni: RunNi) -> None:
    """A component is found by name, or by kind and name; its origin, documentation and options are printed."""
    result = ni("show", "kernel")
    assert result.out == ni("show", "router/kernel").out
    assert "router kernel, from ni-framework" in result.out
    assert "Source: Neural Interpreters" in result.out
    (document,) = ni("show", "kernel", "--json").json
    options = {option["name"]: option for option in document["options"]}
    assert options["bandwidth"]["default"] == "1.0"
    assert options["truncation"]["help"].startswith("distance")


def test_ls_lists_the_standard_components(ni: RunNi) -> None:
    document = ni("ls", "--json").json
    assert {"kind": "body", "name": "lines_of_code"} in [{"kind": row["kind"], "name": row["name"]} for row in document]
    assert "lines_of_code" in ni("ls").out


def test_train_and_eval(ni: RunNi, small_recipe_dir: Path) -> None:
    """A trained checkpoint gives the same metrics when it is evaluated from its files alone."""
    result = ni("train", "small.yaml", "train.steps=4", "--output", "run", "--json")
    assert result.code == 0, result.err
    summary = result.json
    assert summary.keys() == {"run", "checkpoint", "parameters", "seconds", "metrics"}
    assert summary["run"] == "run"
    assert summary["parameters"] == 1806
    assert {"train/loss", "test/loss", "test/accuracy"} <= summary["metrics"].keys()
    assert "next: ni eval run" in result.err
    (small_recipe_dir / "small.yaml").unlink()
    for path in ("run", summary["checkpoint"]):
        metrics = ni("eval", path, "--json").json["metrics"]
        assert metrics == {name: value for name, value in summary["metrics"].items() if name.startswith("test/")}
    assert ni("eval", "run", "model.iterations=3").code == 0


def test_train_progress_on_stderr(ni: RunNi, small_recipe_dir: Path) -> None:
    """Without a terminal there is one line for each logging interval and no bar; the result is on stdout."""
    result = ni("train", "small.yaml", "train.evaluate_every=2", "--every", 4, "--output", "run")
    lines = result.err.splitlines()
    assert lines[0] == "small: 1,806 parameters, 6 steps of 8, in run"
    assert lines[1].startswith("routing at step 0: ")
    for step in (2, 4, 6):
        assert any(line.startswith(f"step {step}/6  loss ") and "images/s" in line and "use " in line for line in lines)
    assert any(line.startswith("step 2/6  test/accuracy ") for line in lines)
    assert "step 4/6  saved run/checkpoints/step-4" in lines
    assert "\r" not in result.err
    assert "\x1b" not in result.err
    assert result.out.splitlines()[0].startswith("held-out accuracy")
    assert "run/checkpoints/step-6" in result.out


def test_default_run_folder(ni: RunNi, small_recipe_dir: Path) -> None:
    """The default run folder is in runs/, named by recipe and time."""
    summary = ni("train", "small.yaml", "train.steps=1", "--json").json
    assert Path(summary["run"]).parent == Path("runs/small")
    assert (small_recipe_dir / summary["checkpoint"] / "model.safetensors").is_file()


def test_train_from_takes_weights(ni: RunNi, small_recipe_dir: Path) -> None:
    """With a learning rate of almost 0, the metrics are those of the given checkpoint."""
    ni("train", "small.yaml", "--output", "first")
    first = ni("eval", "first", "--json").json["metrics"]
    again = ni(
        "train", "small.yaml", "seed=8", "train.optimizer.lr=1e-12", "--from", "first", "--output", "second", "--json"
    )
    for name, value in again.json["metrics"].items():
        if name.startswith("test/"):
            assert value == pytest.approx(first[name], abs=1e-5)


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers that are not finite become null, because standard JSON has no such numbers."""
    emit({"a": [1.5, float("nan")], "b": {"c": (float("inf"), "text", True, None)}}, "", as_json=True)
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert document == {"a": [1.5, None], "b": {"c": [None, "text", True, None]}}
