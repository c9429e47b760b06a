"""Does a model trained on digits learn the letters of an alphabet from few samples, and does it keep reading digits?

Run as `python tests/benchmarks/transfer.py --output FOLDER`; takes about an hour of one CPU core. Prints four tables, and
draws `transfer.png` in the folder of this file. Results are stored in FOLDER, and not measured again; `--seeds 0,1` measures a
part only, so that two processes can share the work before another one prints the tables.

All methods see as many images, of digits as of letters. Learning rates and ways to grow were chosen on five and ten samples of
each Latin letter, with models and draws of other seeds; Armenian letters were not used for it. Ends with exit code 1 if the
logits of a grown model for digits have changed although all previous weights are frozen.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from attrs import evolve
from growth_methods import Method, ResultCache, accuracy

from ni_framework import load_model
from ni_framework.analysis.plot_run import COLOURS, render_png
from ni_framework.utils.malloc import keep_freed_memory

SEEDS = (0, 1, 2, 3, 4)
ALPHABET = "armenian"
# Training samples of each letter.
SAMPLES = (5, 10, 20, 50)
ITERATIONS = range(1, 9)
# Training steps of each method on letters.
STEPS = 300
# One new function for each old one, with weights of its own that are initialised near the old function's.
GROW_NEW_FUNCTIONS = (("add", 3), ("body", "lines_of_code"), ("init", "near=f0,f1,f2"))
TRANSFER_METHODS = {
    "routing": Method(
        "interpreter: new functions, routing",
        "interpreter",
        STEPS,
        ("train.optimizer.lr=1.5e-2",),
        (*GROW_NEW_FUNCTIONS, ("freeze", "all-but-routing")),
    ),
    "all": Method(
        "interpreter: all weights",
        "interpreter",
        STEPS,
        ("train.optimizer.lr=1.0e-2",),
        (("add", 1), ("init", "near=f1")),
    ),
    "vit": Method("transformer: all weights", "vit", STEPS, ("train.optimizer.lr=1.5e-2",), (("freeze", "none"),)),
    "scratch": Method(
        "interpreter, not trained on digits",
        "growth/letters.yaml",
        STEPS,
        ("train.batch=32", "train.optimizer.lr=1.0e-2"),
    ),
}
FROZEN_METHOD = Method(
    "interpreter: new functions alone",
    "interpreter",
    STEPS,
    ("train.optimizer.lr=1.5e-2",),
    (*GROW_NEW_FUNCTIONS, ("freeze", "old")),
)

# The transformer is also measured at these rates, so that its own rate is no handicap.
LEARNING_RATES = ("5.0e-3", "1.0e-2", "2.0e-2", "3.0e-2")

SeedTable = Mapping[str, Sequence[Sequence[float]]]
"""Values by the name of a row, then column by column, one for each seed."""


def main() -> int:
    """Measures what is not stored yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder in which results are stored")
    parser.add_argument(
        "--seeds", default=",".join(map(str, SEEDS)), help="seeds of models and of the samples that they learn from"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    cache, seeds = ResultCache(arguments.output), [int(seed) for seed in arguments.seeds.split(",")]
    letters = measure_transfer(cache, seeds)
    print_table("held-out letters, samples of each letter", [str(number) for number in SAMPLES], letters)
    print(measure_lead(letters))
    print_table(
        "held-out letters, the transformer at other rates",
        [str(number) for number in SAMPLES[:2]],
        measure_rates(cache, seeds),
    )
    digits, equal = measure_forgetting(cache, seeds)
    print_table("held-out digits, after 10 samples of each letter", ["before", "after", "letters"], digits)
    print(f"with all previous weights frozen, logits of digits {'are bit-identical' if equal else 'HAVE CHANGED'}")
    print_table("held-out digits, iterations", [str(number) for number in ITERATIONS], measure_iterations(cache, seeds))
    if len(seeds) == len(SEEDS):
        Path(__file__).with_suffix(".png").write_bytes(draw_transfer(letters))
    return 0 if equal else 1


def measure_transfer(cache: ResultCache, seeds: Sequence[int]) -> SeedTable:
    """Returns the accuracy on letters of each method, by the number of samples."""
    accuracies: dict[str, list[list[float]]] = {
        method.label: [[] for _ in SAMPLES] for method in TRANSFER_METHODS.values()
    }
    for seed in seeds:
        for column, samples in enumerate(SAMPLES):
            for name, method in TRANSFER_METHODS.items():
                result = cache.result(
                    f"{name}-{samples}-{seed}",
                    lambda m=method, n=samples, s=seed: cache.learn_letters(m, ALPHABET, n, s, s),
                )
                accuracies[method.label][column].append(result["letters"])
    return accuracies


def measure_lead(letters: SeedTable) -> str:
    """Returns by how many points new functions are ahead of the transformer, and in how many of the seeds, as text."""
    leads = []
    for number, new, old in zip(
        SAMPLES, *(letters[TRANSFER_METHODS[name].label] for name in ("routing", "vit")), strict=True
    ):
        ahead = [100 * (a - b) for a, b in zip(new, old, strict=True)]
        won = sum(points > 0 for points in ahead)
        leads.append(
            f"{number}: {statistics.mean(ahead):.1f} ± {_standard_deviation(ahead):.1f} in {won} of {len(ahead)}"
        )
    return "new functions and routing before the transformer, points by samples, seed by seed: " + "; ".join(leads)


def measure_rates(cache: ResultCache, seeds: Sequence[int]) -> SeedTable:
    """Returns the transformer's accuracy on letters at other learning rates, from few samples."""
    rows = {}
    for rate in LEARNING_RATES:
        method = evolve(TRANSFER_METHODS["vit"], overrides=(f"train.optimizer.lr={rate}",))
        rows[rate] = [
            [
                cache.result(
                    f"vit-{rate}-{samples}-{seed}",
                    lambda m=method, n=samples, s=seed: cache.learn_letters(m, ALPHABET, n, s, s),
                )["letters"]
                for seed in seeds
            ]
            for samples in SAMPLES[:2]
        ]
    return rows


def measure_forgetting(cache: ResultCache, seeds: Sequence[int]) -> tuple[SeedTable, bool]:
    """Returns the accuracy on digits before and after learning letters, and whether frozen models kept their logits."""
    methods = {"frozen": FROZEN_METHOD} | {
        name: method for name, method in TRANSFER_METHODS.items() if method.grow_options
    }
    rows, equal = {}, True
    for name, method in methods.items():
        found = [
            cache.result(f"{name}-10-{seed}", lambda m=method, s=seed: cache.learn_letters(m, ALPHABET, 10, s, s))
            for seed in seeds
        ]
        rows[method.label] = [[result[key] for result in found] for key in ("digits before", "digits", "letters")]
        equal &= name != "frozen" or all(result["equal"] for result in found)
    return rows, equal


def measure_iterations(cache: ResultCache, seeds: Sequence[int]) -> SeedTable:
    """Returns the accuracy on digits by the number of iterations, after training with a fixed and with a random number."""
    labels = {"interpreter": "four in training", "random": "one to four in training, at random"}
    rows = {}
    for kind, label in labels.items():
        found = [
            cache.result(
                f"iterations-{kind}-{seed}",
                lambda k=kind, s=seed: [accuracy(load_model(cache.model(k, s)), number) for number in ITERATIONS],
            )
            for seed in seeds
        ]
        rows[label] = list(zip(*found, strict=True))
    return rows


def print_table(title: str, columns: Sequence[str], rows: SeedTable) -> None:
    """Prints a table in Markdown: mean and standard deviation over seeds, in percent."""
    print(f"\n| {title} | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for label, values in rows.items():
        cells = [f"{100 * statistics.mean(column):.1f} ± {100 * _standard_deviation(column):.1f}" for column in values]
        print(f"| {label} | {' | '.join(cells)} |")
    print(flush=True)


def draw_transfer(letters: SeedTable) -> bytes:
    """Draws accuracy by samples of each letter: a line for each method, with a band of one standard deviation over seeds."""

    def draw():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for (label, values), colour in zip(letters.items(), COLOURS, strict=False):
            mean = [100 * statistics.mean(column) for column in values]
            spread = [100 * _standard_deviation(column) for column in values]
            axes.plot(SAMPLES, mean, marker="o", markersize=4, color=colour, label=label)
            low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(SAMPLES, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(SAMPLES, [str(number) for number in SAMPLES])
        axes.minorticks_off()
        axes.set_ylim(0, 100)
        axes.set_xlabel("samples of each letter")
        axes.set_title(f"held-out {ALPHABET.capitalize()} letters read, in percent", loc="left")
        axes.legend(loc="center right", bbox_to_anchor=(1, 0.43))
        return figure

    return render_png(draw)


def _standard_deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    sys.exit(main())
