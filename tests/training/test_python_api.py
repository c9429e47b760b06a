"""`ni_framework` as a library: training, resuming, evaluating and growing without the command line."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ni_framework
from ni_framework import NIError, evaluate, grow, load_recipe, resume, train
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

ROOT = Path(__file__).parents[2]
FUNCTIONS = (
    "build_data",
    "build_model",
    "evaluate",
    "evaluate_model",
    "grow",
    "load_model",
    "load_recipe",
    "resume",
    "train",
)


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL_RECIPE_YAML)
    return Path("small.yaml")


@pytest.mark.slow
def test_train_resume_evaluate_grow(recipe_file: Path) -> None:
    """Each returns what its command prints with --json."""
    summary = train(load_recipe(recipe_file, ["train.steps=2"]), "run")
    assert summary["run"] == "run"
    assert evaluate("run") == {name: value for name, value in summary["metrics"].items() if name.startswith("test/")}
    assert evaluate(Path("run"), ["model.iterations=3"]) != evaluate("run")
    assert resume("run", ["train.steps=4"])["checkpoint"].endswith("step-4")
    document = grow("run", "grown", add=2, freeze="old")
    assert document["functions"] == [[3, 5]]
    assert resume("grown", ["train.steps=6"])["checkpoint"].endswith("step-6")
    assert evaluate("grown").keys() == evaluate("run").keys()


@pytest.mark.slow
def test_the_summary_is_that_of_the_command(recipe_file: Path) -> None:
    summary = train(load_recipe(recipe_file, ["train.steps=2"]), Path("run"))
    command = [
        sys.executable,
        "-m",
        "ni_framework",
        "train",
        "small.yaml",
        "train.steps=2",
        "--output",
        "other",
        "--json",
    ]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert printed.keys() == summary.keys()
    tests = {name for name in summary["metrics"] if name.startswith("test/")}
    assert tests == {name for name in printed["metrics"] if name.startswith("test/")}
    for name in tests:
        assert printed["metrics"][name] == pytest.approx(summary["metrics"][name], rel=1e-6), name


def test_errors_are_of_one_base(recipe_file: Path) -> None:
    with pytest.raises(NIError, match="unknown key"):
        load_recipe(recipe_file, ["train.stepz=2"])
    with pytest.raises(NIError, match="absent"):
        evaluate("absent")
    train(load_recipe(recipe_file, ["train.steps=1"]), "run")
    with pytest.raises(NIError, match="nothing to do"):
        grow("run", "grown")
    assert not Path("grown").exists()
    names = [name for name in ni_framework.__all__ if name.endswith("Error")]
    assert all(issubclass(getattr(ni_framework, name), NIError) for name in names)


def test_importing_is_light() -> None:
    code = "import sys, ni_framework; dir(ni_framework); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name: str) -> None:
    """Every parameter of a public function is in its docstring, and what it returns and raises."""
    function = getattr(ni_framework, name)
    text = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^    {parameter}\b.*:", text, re.M), f"{name} does not document {parameter}"
    assert "Returns:" in text, name
    assert "Raises:" in text, name
