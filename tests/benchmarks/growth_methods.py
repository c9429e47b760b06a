"""The measurements of `transfer.py`. Each result is stored in a folder, so that an interrupted benchmark can be continued."""

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
from ni_framework.evaluation.evaluate import evaluate_model
from ni_framework.growth.grow import GrowOptions, grow_checkpoint
from ni_framework.model.compose import build_data
from ni_framework.model.interpreter import Interpreter
from ni_framework.training.train import resume, train

RECIPES = Path(__file__).parents[2] / "recipes"
# Models that are first trained on digits: recipe and overrides.
PRETRAINED_MODELS = {
    "interpreter": ("growth/digits.yaml", []),
    "random": ("growth/digits.yaml", ["train.random_iterations=true"]),
    "vit": ("vit_digits.yaml", []),
}


@frozen
class Method:
    """A way to learn a new task from few samples.

    `start` is a key of `PRETRAINED_MODELS`, or the recipe of a model that starts from random weights. `grow_options` are the
    options of `GrowOptions` with which the pretrained model grows; empty if it starts from random weights.
    """

    label: str
    start: str
    steps: int
    overrides: tuple[str, ...] = ()
    grow_options: tuple[tuple[str, Any], ...] = ()


class ResultCache:
    """Stores results in a folder, each in a JSON file that exists once it is complete, and models trained on digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def result(self, name: str, measure: Callable[[], Any]) -> Any:
        """Returns the result that is stored under a name, or measures and stores it."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            begin = time.perf_counter()
            result = measure()
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(result))
            unfinished.rename(path)
            print(f"{name}: {result}, {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        return json.loads(path.read_text())

    def model(self, kind: str, seed: int) -> Path:
        """Returns the run folder of a model trained on digits, and trains it if it does not exist."""
        run = self.folder / "models" / f"{kind}-{seed}"
        if not run.exists():
            unfinished = run.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            print(f"{run.name}: training on digits", file=sys.stderr, flush=True)
            recipe, overrides = PRETRAINED_MODELS[kind]
            _without_progress(lambda: train(load_recipe(RECIPES / recipe, [f"seed={seed}", *overrides]), unfinished))
            unfinished.rename(run)
        return run

    def learn_letters(self, method: Method, alphabet: str, samples: int, draw: int, seed: int) -> dict[str, float]:
        """Learns a new alphabet, and measures held-out accuracy.

        Args:
            method: How it is learned.
            alphabet: The alphabet.
            samples: Training samples of each letter.
            draw: The seed of the choice of samples.
            seed: The seed of the training, and of the model that it starts from.

        Returns:
            The accuracy on "letters" and the number of "parameters"; if the model was trained on digits, also the accuracy
            on "digits before" and "digits" afterwards, and whether its logits for digits are "equal" to those before.
        """
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            data = f"data={{use: glyphs, alphabet: {alphabet}, samples: {samples}, draw: {draw}}}"
            if not method.grow_options:
                recipe = load_recipe(
                    RECIPES / method.start, [f"seed={seed}", f"train.steps={method.steps}", data, *method.overrides]
                )
                summary = _without_progress(lambda: train(recipe, run))
                return {"letters": summary["metrics"]["test/accuracy"], "parameters": summary["parameters"]}
            before = self.model(method.start, seed)
            classes = build_data(load_recipe(RECIPES / "growth/letters.yaml", [data])).tasks["letters"]
            grow_options = GrowOptions(
                tasks=f"letters:{classes}", overrides=(data, *method.overrides), **dict(method.grow_options)
            )
            grown = _without_progress(lambda: grow_checkpoint(before, run, grow_options))
            steps = read_manifest(Path(grown["checkpoint"])).step + method.steps
            summary = _without_progress(lambda: resume(run, [f"train.steps={steps}"]))
            result = {"letters": summary["metrics"]["test/accuracy"], "parameters": summary["parameters"]}
            old, new = load_model(before), load_model(run)
            result["equal"] = bool(held_out_logits(old).equal(held_out_logits(new)))
            return result | {"digits before": accuracy(old), "digits": accuracy(new)}


def held_out_digits() -> Split:
    """Returns the held-out split of the digits."""
    return build_data(load_recipe(RECIPES / "digits.yaml")).open()["test"]


def accuracy(model: Interpreter, iterations: int | None = None) -> float:
    """Returns the accuracy on held-out digits, with another number of iterations unless it is None."""
    for script in model.scripts:
        script.iterations = iterations or script.iterations
    return evaluate_model(model, held_out_digits())["test/accuracy"]


def held_out_logits(model: Interpreter) -> torch.Tensor:
    """Returns the logits of all held-out digits, [n, 10]."""
    split = held_out_digits()
    with torch.no_grad():
        return model(split.batch(torch.arange(len(split)), None).inputs, tasks=["digits"])["digits"]


def _without_progress(work: Callable[[], Any]) -> Any:
    """Calls `work` without its progress messages on stderr; errors are still raised."""
    with tempfile.TemporaryFile("w+") as log, redirect_stderr(log):
        return work()
