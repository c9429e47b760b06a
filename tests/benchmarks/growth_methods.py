"""What `transfer.py` measures, piece by piece; each is kept in a folder, so that an interrupted measurement goes on."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from ni_framework import load_model, load_recipe
from ni_framework.checkpoint.manifest import read_manifest
from ni_framework.contracts import Split
from ni_framework.evaluation.evaluate import evaluate
from ni_framework.growth.grow import Asked, grow
from ni_framework.model.compose import build_data
from ni_framework.model.interpreter import Interpreter
from ni_framework.training.train import resume, train

RECIPES = Path(__file__).parents[2] / "recipes"
MODELS = {  # recipe and overrides of what is trained on digits first
    "interpreter": ("growth/digits.yaml", []),
    "random": ("growth/digits.yaml", ["train.random_iterations=true"]),
    "vit": ("vit_digits.yaml", []),
}


@frozen
class Method:
    """A way to learn a new task from few samples."""

    label: str
    start: str  # a model that knows digits, or the recipe that begins with nothing
    steps: int
    overrides: tuple[str, ...] = ()
    asked: tuple[tuple[str, Any], ...] = ()  # how the model grows, as `Asked` has it; none: it begins with nothing


class Kept:
    """Results in a folder, each a file of JSON that appears once it is complete, and models that know digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def result(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured under this name, or is measured now."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            begun = time.perf_counter()
            found = measure()
            beside = path.with_suffix(".part")
            beside.write_text(json.dumps(found))
            beside.rename(path)
            print(f"{name}: {found}, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        return json.loads(path.read_text())

    def model(self, kind: str, seed: int) -> Path:
        """The run folder of a model that knows digits, trained now if it is not there."""
        place = self.folder / "models" / f"{kind}-{seed}"
        if not place.exists():
            beside = place.with_suffix(".part")
            shutil.rmtree(beside, ignore_errors=True)
            print(f"{place.name}: trained on digits", file=sys.stderr, flush=True)
            recipe, overrides = MODELS[kind]
            _quietly(lambda: train(load_recipe(RECIPES / recipe, [f"seed={seed}", *overrides]), beside))
            beside.rename(place)
        return place

    def learned(self, method: Method, alphabet: str, samples: int, draw: int, seed: int) -> dict[str, float]:
        """Held-out accuracy of a new alphabet, and of digits before and after where the model knows them."""
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            data = f"data={{use: glyphs, alphabet: {alphabet}, samples: {samples}, draw: {draw}}}"
            if not method.asked:
                recipe = load_recipe(
                    RECIPES / method.start, [f"seed={seed}", f"train.steps={method.steps}", data, *method.overrides]
                )
                summary = _quietly(lambda: train(recipe, run))
                return {"letters": summary["metrics"]["test/accuracy"], "parameters": summary["parameters"]}
            before = self.model(method.start, seed)
            classes = build_data(load_recipe(RECIPES / "growth/letters.yaml", [data])).tasks["letters"]
            asked = Asked(tasks=f"letters:{classes}", overrides=(data, *method.overrides), **dict(method.asked))
            grown = _quietly(lambda: grow(before, run, asked))
            steps = read_manifest(Path(grown["checkpoint"])).step + method.steps
            summary = _quietly(lambda: resume(run, [f"train.steps={steps}"]))
            found = {"letters": summary["metrics"]["test/accuracy"], "parameters": summary["parameters"]}
            old, new = load_model(before), load_model(run)
            found["equal"] = bool(answers(old).equal(answers(new)))
            return found | {"digits before": accuracy(old), "digits": accuracy(new)}


def digits() -> Split:
    """The held-out digits."""
    return build_data(load_recipe(RECIPES / "digits.yaml")).open()["test"]


def accuracy(model: Interpreter, iterations: int | None = None) -> float:
    """Of the held-out digits, with another number of iterations if one is given."""
    for script in model.scripts:
        script.iterations = iterations or script.iterations
    return evaluate(model, digits())["test/accuracy"]


def answers(model: Interpreter) -> torch.Tensor:
    """The logits of all held-out digits, [n, 10]."""
    split = digits()
    with torch.no_grad():
        return model(split.batch(torch.arange(len(split)), None).inputs, tasks=["digits"])["digits"]


def _quietly(work: Callable[[], Any]) -> Any:
    """Without what a training narrates: what goes wrong is raised all the same."""
    with tempfile.TemporaryFile("w+") as log, redirect_stderr(log):
        return work()
