"""Formulas of fuzzy logic: what a trained interpreter learns of new ones from few samples, by which of its parts.

    python tests/benchmarks/formulas.py --output runs/formulas                  # the figures in `recipes/README.md`
    python tests/benchmarks/formulas.py --output runs/harder --operations 6     # of longer formulas

Trains five seeds of `recipes/growth/formulas.yaml` on formulas 0 to 19, then adapts each to formulas 20 to 29, of which there
are few samples, other ones for each seed, by training some of its parts. Beside it stand the same adaptation of an interpreter
that has never been trained, and a linear answer by least squares. CLS elements and heads of the new formulas are trained
everywhere. Progress goes to stderr; what is found is kept in the output folder, so that a stopped measurement goes on. On
stdout, at the end, stands a table of R^2 held out: the mean over formulas, of which the mean and the standard deviation over
seeds.

The paper describes an experiment on fuzzy Boolean formulas. Neither its protocol nor its numbers were available when this was
written: formulas, sizes, samples and settings are this script's own, and no figure here can be compared with the paper's.
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
from ni_framework.checkpoint.run_dir import checkpoints_of, newest_good
from ni_framework.contracts import Split
from ni_framework.growth.grow import Asked, grow
from ni_framework.model.compose import build_data
from ni_framework.training.train import resume, train
from ni_framework.utils.atomic_files import replace_file

RECIPE = Path(__file__).parents[2] / "recipes" / "growth" / "formulas.yaml"
SEEDS = (0, 1, 2, 3, 4)
SAMPLES = (200,)
KNOWN, NEW = 20, 10  # formulas
STEPS, NEW_STEPS, BATCH = 300, 300, 50


# New functions have a body with weights of their own, which begin as those of the function that they begin near.
OWN = "{use: lines_of_code, lines: 1, heads: 4, key: 12, linear: {use: modlin}}"
RATE = 1e-2
VARIANTS = {
    "nothing else": Asked(freeze="old"),
    "routing": Asked(freeze="all-but-routing"),
    "codes": Asked(overrides=("train.learn=[grown, codes]",)),
    "routing, two new functions": Asked(freeze="all-but-routing", add=2, init="near=f0"),
    "routing, two new functions with their own body": Asked(freeze="all-but-routing", add=2, init="near=f0", body=OWN),
    "all weights": Asked(),
}


def begun(folder: Path, seed: int, operations: int, known: bool) -> tuple[Path, float]:
    """The run folder of an interpreter that has learned the first formulas, or none; and its R^2 held out."""
    run = folder / f"{'trained' if known else 'untrained'}-{operations}-{seed}"
    # Of the untrained one, a single step, at a rate with which no weight moves.
    own = [f"train.steps={STEPS}"] if known else ["train.steps=1", "train.optimizer.lr=1e-30"]
    recipe = load_recipe(RECIPE, [f"seed={seed}", f"data.count={KNOWN}", f"data.operations={operations}", *own])
    if not checkpoints_of(run):
        train(recipe, run)
    elif newest_good(run)[1].step < recipe.train.steps:
        resume(run)
    return run, newest_good(run)[1].metrics["test/r2"] or 0.0


def adapted(run: Path, variant: Asked, seed: int, operations: int, samples: int) -> float:
    """R^2 held out of the new formulas, mean over them, once a grown copy of a run has been trained on them."""
    steps = newest_good(run)[1].step + NEW_STEPS
    data = {"first": KNOWN, "count": NEW, "operations": operations, "samples": samples, "draw": seed}
    own = [f"data.{name}={value}" for name, value in data.items()]
    own += [f"train.steps={steps}", f"train.batch={BATCH}", f"train.optimizer.lr={RATE}"]
    tasks = ",".join(f"formula_{number}:1" for number in range(KNOWN, KNOWN + NEW))
    with tempfile.TemporaryDirectory() as folder:
        grown = Path(folder) / "grown"
        grow(run, grown, evolve(variant, tasks=tasks, overrides=(*own, *variant.overrides)))
        return resume(grown)["metrics"]["test/r2"]


def measured(folder: Path, seed: int, operations: int) -> dict[str, float]:
    """All of one seed's R^2, by variant, beginning and number of samples; what the folder has is not measured again."""
    place = folder / f"found-{operations}-{seed}.json"
    found: dict[str, float] = json.loads(place.read_text()) if place.exists() else {}
    runs = {}
    for known in (True, False):
        runs[known], r2 = begun(folder, seed, operations, known)
        print(f"seed {seed}, {runs[known].name}: {r2:.3f} of the first formulas", file=sys.stderr, flush=True)
        found[f"first, {known}"] = r2
    for samples in SAMPLES:
        found[f"least squares, {samples}"] = linear(seed, operations, samples)
        for name, variant in VARIANTS.items():
            for known in (True, False):
                key = f"{name}, {known}, {samples}"
                if key not in found:
                    found[key] = adapted(runs[known], variant, seed, operations, samples)
                    replace_file(place, json.dumps(found, indent=2).encode())
                print(
                    f"seed {seed}, {samples} samples, {name}, {runs[known].name}: {found[key]:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
    return found


def linear(seed: int, operations: int, samples: int) -> float:
    """R^2 held out of least squares on the same samples, mean over the new formulas."""
    options = [f"data.first={KNOWN}", f"data.count={NEW}", f"data.operations={operations}", f"data.samples={samples}"]
    splits = build_data(load_recipe(RECIPE, [*options, f"data.draw={seed}"])).open()
    (train_NX, known), (test_NX, asked) = (_whole(splits[name]) for name in ("train", "test"))
    answers = {task: test_NX @ torch.linalg.lstsq(train_NX, value).solution for task, value in known.items()}
    return mean(1 - (answers[task] - value).square().mean().item() for task, value in asked.items())


def _whole(split: Split) -> tuple[Tensor, dict[str, Tensor]]:
    """All variables of a split with a one beside them, [n, 6], and the value of each formula, [n, 1]."""
    batch = split.batch(torch.arange(len(split)), None)
    x_NX = batch.inputs.squeeze(-1)
    return torch.cat([x_NX, torch.ones(len(x_NX), 1)], dim=1), {k: v.unsqueeze(1) for k, v in batch.targets.items()}


def lines(found: list[dict[str, float]]) -> Iterator[str]:
    """The table, as Markdown."""
    first = [of["first, True"] for of in found]
    yield f"R^2 of the {KNOWN} first formulas: {_spread(first)}, of {len(found)} seeds"
    yield ""
    columns = [(samples, known) for samples in SAMPLES for known in (True, False)]
    yield (
        "| trained on the new ones | "
        + " | ".join(f"{n} samples{'' if known else ', untrained'}" for n, known in columns)
        + " |"
    )
    yield "| --- |" + " --- |" * len(columns)
    for name in VARIANTS:
        cells = [_spread([of[f"{name}, {known}, {samples}"] for of in found]) for samples, known in columns]
        yield f"| {name} | " + " | ".join(cells) + " |"
    cells = [_spread([of[f"least squares, {samples}"] for of in found]) if known else "" for samples, known in columns]
    yield "| a linear answer, by least squares | " + " | ".join(cells) + " |"


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} +- {stdev(values) if len(values) > 1 else 0:.3f}"


def main() -> None:
    """Measures what is not yet in the output folder, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of what was trained and found")
    parser.add_argument("--operations", type=int, default=4, help="how often a formula says `and`")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, help="so that several processes may share the work"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.output.mkdir(parents=True, exist_ok=True)
    print(*lines([measured(asked.output, seed, asked.operations) for seed in asked.seeds]), sep="\n")


if __name__ == "__main__":
    main()
