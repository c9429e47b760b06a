"""Formulas of fuzzy logic: how well a trained interpreter learns new ones from few samples, by the parts that are trained.

    python tests/benchmarks/formulas.py --output runs/formulas                  # the table in `recipes/README.md`
    python tests/benchmarks/formulas.py --output runs/harder --operations 6     # longer formulas

Trains five seeds of `recipes/growth/formulas.yaml` on formulas 0 to 19. Then it adapts each to formulas 20 to 29, with few
samples, which differ between seeds, by training some of its parts. For comparison, it adapts an interpreter that has never been
trained in the same way, and fits a linear model by least squares. CLS elements and heads of the new formulas are always
trained. Progress goes to stderr. Results are stored in the output folder, so that an interrupted benchmark can be continued.
At the end it prints a table of held-out R^2 on stdout: for each seed the mean over formulas, of which the table shows the mean
and the standard deviation over seeds.

The paper describes an experiment on fuzzy Boolean formulas. Neither its protocol nor its numbers were available when this was
written: formulas, sizes, samples and settings are this script's own, and no number here can be compared with the paper's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import torch
from attrs import evolve
from torch import Tensor

from ni_framework import load_recipe
from ni_framework.checkpoint.run_dir import find_latest_valid, list_checkpoints
from ni_framework.contracts import Split
from ni_framework.growth.grow import GrowOptions, grow_checkpoint
from ni_framework.model.compose import build_data
from ni_framework.training.train import resume, train
from ni_framework.utils.atomic_files import atomic_write

FORMULAS_RECIPE = Path(__file__).parents[2] / "recipes" / "growth" / "formulas.yaml"
SEEDS = (0, 1, 2, 3, 4)
SAMPLES = (200,)
KNOWN_FORMULAS, NEW_FORMULAS = 20, 10
STEPS, NEW_STEPS, BATCH = 300, 300, 50


# A body with weights of its own, whose initial values are those of the function that the new function is initialised near.
OWN_BODY = "{use: lines_of_code, lines: 1, heads: 4, key: 12, linear: {use: modlin}}"
LEARNING_RATE = 1e-2
VARIANTS = {
    "nothing else": GrowOptions(freeze="old"),
    "routing": GrowOptions(freeze="all-but-routing"),
    "codes": GrowOptions(overrides=("train.trainable=[grown, codes]",)),
    "routing, two new functions": GrowOptions(freeze="all-but-routing", add=2, init="near=f0"),
    "routing, two new functions with their own body": GrowOptions(
        freeze="all-but-routing", add=2, init="near=f0", body=OWN_BODY
    ),
    "all weights": GrowOptions(),
}


def train_first_formulas(folder: Path, seed: int, operations: int, known: bool) -> tuple[Path, float]:
    """Trains an interpreter on the first formulas, or not at all; returns its run folder and its held-out R^2."""
    run = folder / f"{'trained' if known else 'untrained'}-{operations}-{seed}"
    # The untrained one takes a single step, at a learning rate that changes no weight.
    overrides = [f"train.steps={STEPS}"] if known else ["train.steps=1", "train.optimizer.lr=1e-30"]
    recipe = load_recipe(
        FORMULAS_RECIPE, [f"seed={seed}", f"data.count={KNOWN_FORMULAS}", f"data.operations={operations}", *overrides]
    )
    if not list_checkpoints(run):
        train(recipe, run)
    elif find_latest_valid(run)[1].step < recipe.train.steps:
        resume(run)
    return run, find_latest_valid(run)[1].metrics["test/one_minus_mse"] or 0.0


def train_grown_copy(run: Path, variant: GrowOptions, seed: int, operations: int, samples: int) -> float:
    """Trains a grown copy of a run on the new formulas, and returns the mean of their held-out R^2."""
    steps = find_latest_valid(run)[1].step + NEW_STEPS
    data = {"first": KNOWN_FORMULAS, "count": NEW_FORMULAS, "operations": operations, "samples": samples, "draw": seed}
    overrides = [f"data.{name}={value}" for name, value in data.items()]
    overrides += [f"train.steps={steps}", f"train.batch={BATCH}", f"train.optimizer.lr={LEARNING_RATE}"]
    tasks = ",".join(f"formula_{number}:1" for number in range(KNOWN_FORMULAS, KNOWN_FORMULAS + NEW_FORMULAS))
    with tempfile.TemporaryDirectory() as folder:
        grown = Path(folder) / "grown"
        grow_checkpoint(run, grown, evolve(variant, tasks=tasks, overrides=(*overrides, *variant.overrides)))
        return resume(grown)["metrics"]["test/one_minus_mse"]


def measure_seed(folder: Path, seed: int, operations: int) -> dict[str, float]:
    """Returns the R^2 of one seed by variant, initial weights and number of samples; stored results are not measured again."""
    path = folder / f"found-{operations}-{seed}.json"
    results: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    runs = {}
    for known in (True, False):
        runs[known], r2 = train_first_formulas(folder, seed, operations, known)
        print(f"seed {seed}, {runs[known].name}: {r2:.3f} of the first formulas", file=sys.stderr, flush=True)
        results[f"first, {known}"] = r2
    for samples in SAMPLES:
        results[f"least squares, {samples}"] = least_squares_r2(seed, operations, samples)
        for name, variant in VARIANTS.items():
            for known in (True, False):
                key = f"{name}, {known}, {samples}"
                if key not in results:
                    results[key] = train_grown_copy(runs[known], variant, seed, operations, samples)
                    atomic_write(path, json.dumps(results, indent=2).encode())
                print(
                    f"seed {seed}, {samples} samples, {name}, {runs[known].name}: {results[key]:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
    return results


def least_squares_r2(seed: int, operations: int, samples: int) -> float:
    """Returns the held-out R^2 of least squares on the same samples, mean over the new formulas."""
    options = [
        f"data.first={KNOWN_FORMULAS}",
        f"data.count={NEW_FORMULAS}",
        f"data.operations={operations}",
        f"data.samples={samples}",
    ]
    splits = build_data(load_recipe(FORMULAS_RECIPE, [*options, f"data.draw={seed}"])).open()
    (train_NX, train_targets), (test_NX, test_targets) = (
        _design_and_values(splits[name]) for name in ("train", "test")
    )
    predictions = {
        task: test_NX @ torch.linalg.lstsq(train_NX, value).solution for task, value in train_targets.items()
    }
    return mean(1 - (predictions[task] - value).square().mean().item() for task, value in test_targets.items())


def _design_and_values(split: Split) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns all variables of a split with a column of ones, [n, 6], and the value of each formula, [n, 1]."""
    batch = split.batch(torch.arange(len(split)), None)
    x_NX = batch.inputs.squeeze(-1)
    return torch.cat([x_NX, torch.ones(len(x_NX), 1)], dim=1), {k: v.unsqueeze(1) for k, v in batch.targets.items()}


def markdown_table(results: list[dict[str, float]]) -> Iterator[str]:
    """Yields the lines of the table, as Markdown."""
    first = [seed_results["first, True"] for seed_results in results]
    yield f"R^2 of the {KNOWN_FORMULAS} first formulas: {_format_mean_and_spread(first)}, of {len(results)} seeds"
    yield ""
    columns = [(samples, known) for samples in SAMPLES for known in (True, False)]
    yield (
        "| trained on the new ones | "
        + " | ".join(f"{n} samples{'' if known else ', untrained'}" for n, known in columns)
        + " |"
    )
    yield "| --- |" + " --- |" * len(columns)
    for name in VARIANTS:
        cells = [
            _format_mean_and_spread([seed_results[f"{name}, {known}, {samples}"] for seed_results in results])
            for samples, known in columns
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"
    cells = [
        _format_mean_and_spread([seed_results[f"least squares, {samples}"] for seed_results in results])
        if known
        else ""
        for samples, known in columns
    ]
    yield "| a linear model, by least squares | " + " | ".join(cells) + " |"


def _format_mean_and_spread(values: list[float]) -> str:
    return f"{mean(values):.3f} +- {stdev(values) if len(values) > 1 else 0:.3f}"


def main() -> None:
    """Measures what is not yet in the output folder, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of trained models and results")
    parser.add_argument("--operations", type=int, default=4, help="number of operations `and` in a formula")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, help="seeds to measure; several processes can share the work"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(
        *markdown_table([measure_seed(arguments.output, seed, arguments.operations) for seed in arguments.seeds]),
        sep="\n",
    )


if __name__ == "__main__":
    main()
