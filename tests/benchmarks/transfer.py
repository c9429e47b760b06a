"""Does a model that knows digits learn the letters of an alphabet from few samples, and does it keep its digits?

Run as `python tests/benchmarks/transfer.py --output FOLDER`; takes about an hour of one CPU core. Prints four tables, and
draws `transfer.png` beside this file. What was measured is kept in FOLDER, and not measured again; `--seeds 0,1` measures a
part only, so that two processes may share the work before one more tells of all.

All methods see as many images, of digits as of letters. Learning rates and ways to grow were chosen on five and ten samples of
each Latin letter, with models and draws of other seeds; Armenian letters were not looked at for it. Ends with exit code 1 if a
grown model does not answer as before for digits though all there was is frozen.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from attrs import evolve
from growth_methods import Kept, Method, accuracy

from ni_framework import load_model
from ni_framework.analysis.plot_run import COLOURS, png
from ni_framework.utils.malloc import keep_freed_memory

SEEDS = (0, 1, 2, 3, 4)
ALPHABET = "armenian"
SAMPLES = (5, 10, 20, 50)  # of each letter
ITERATIONS = range(1, 9)
STEPS = 300  # on letters, of each method
# With weights of their own, which begin as those there are: each function has one beside it.
NEW = (("add", 3), ("body", "lines_of_code"), ("init", "near=f0,f1,f2"))
METHODS = {
    "routing": Method(
        "interpreter: new functions, routing",
        "interpreter",
        STEPS,
        ("train.optimizer.lr=1.5e-2",),
        (*NEW, ("freeze", "all-but-routing")),
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
        "interpreter that knows nothing",
        "growth/letters.yaml",
        STEPS,
        ("train.batch=32", "train.optimizer.lr=1.0e-2"),
    ),
}
FROZEN = Method(
    "interpreter: new functions alone",
    "interpreter",
    STEPS,
    ("train.optimizer.lr=1.5e-2",),
    (*NEW, ("freeze", "old")),
)

RATES = (
    "5.0e-3",
    "1.0e-2",
    "2.0e-2",
    "3.0e-2",
)  # at which the transformer is tried too, so that its own is no handicap

Table = Mapping[str, Sequence[Sequence[float]]]
"""Values by the name of a row, then column by column, one for each seed."""


def main() -> int:
    """Measures what is not there yet, and tells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder in which results are kept")
    parser.add_argument(
        "--seeds", default=",".join(map(str, SEEDS)), help="of models, and of the samples that they learn from"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    kept, seeds = Kept(given.output), [int(seed) for seed in given.seeds.split(",")]
    letters = transfer(kept, seeds)
    told("held-out letters, samples of each letter", [str(number) for number in SAMPLES], letters)
    print(lead(letters))
    told(
        "held-out letters, the transformer at other rates", [str(number) for number in SAMPLES[:2]], rates(kept, seeds)
    )
    digits, equal = after(kept, seeds)
    told("held-out digits, after 10 samples of each letter", ["before", "after", "letters"], digits)
    print(f"with all there was frozen, logits of digits {'are equal to the last bit' if equal else 'HAVE MOVED'}")
    told("held-out digits, iterations", [str(number) for number in ITERATIONS], iterations(kept, seeds))
    if len(seeds) == len(SEEDS):
        Path(__file__).with_suffix(".png").write_bytes(picture(letters))
    return 0 if equal else 1


def transfer(kept: Kept, seeds: Sequence[int]) -> Table:
    """Accuracy on letters of each method, by the number of samples."""
    found: dict[str, list[list[float]]] = {method.label: [[] for _ in SAMPLES] for method in METHODS.values()}
    for seed in seeds:
        for column, samples in enumerate(SAMPLES):
            for name, method in METHODS.items():
                result = kept.result(
                    f"{name}-{samples}-{seed}", lambda m=method, n=samples, s=seed: kept.learned(m, ALPHABET, n, s, s)
                )
                found[method.label][column].append(result["letters"])
    return found


def lead(letters: Table) -> str:
    """By how many points new functions are ahead of the transformer, seed by seed, and in how many of the seeds."""
    told = []
    for number, new, old in zip(SAMPLES, *(letters[METHODS[name].label] for name in ("routing", "vit")), strict=True):
        ahead = [100 * (a - b) for a, b in zip(new, old, strict=True)]
        won = sum(points > 0 for points in ahead)
        told.append(f"{number}: {statistics.mean(ahead):.1f} ± {_deviation(ahead):.1f} in {won} of {len(ahead)}")
    return "new functions and routing before the transformer, points by samples, seed by seed: " + "; ".join(told)


def rates(kept: Kept, seeds: Sequence[int]) -> Table:
    """Accuracy on letters of the transformer at other learning rates, from few samples."""
    rows = {}
    for rate in RATES:
        method = evolve(METHODS["vit"], overrides=(f"train.optimizer.lr={rate}",))
        rows[rate] = [
            [
                kept.result(
                    f"vit-{rate}-{samples}-{seed}",
                    lambda m=method, n=samples, s=seed: kept.learned(m, ALPHABET, n, s, s),
                )["letters"]
                for seed in seeds
            ]
            for samples in SAMPLES[:2]
        ]
    return rows


def after(kept: Kept, seeds: Sequence[int]) -> tuple[Table, bool]:
    """Accuracy on digits before and after letters were learned; whether all stayed equal where what there was is frozen."""
    methods = {"frozen": FROZEN} | {name: method for name, method in METHODS.items() if method.asked}
    rows, equal = {}, True
    for name, method in methods.items():
        found = [
            kept.result(f"{name}-10-{seed}", lambda m=method, s=seed: kept.learned(m, ALPHABET, 10, s, s))
            for seed in seeds
        ]
        rows[method.label] = [[result[key] for result in found] for key in ("digits before", "digits", "letters")]
        equal &= name != "frozen" or all(result["equal"] for result in found)
    return rows, equal


def iterations(kept: Kept, seeds: Sequence[int]) -> Table:
    """Accuracy on digits by the number of iterations, of models trained as usual and with random numbers of them."""
    labels = {"interpreter": "four in training", "random": "one to four in training, at random"}
    rows = {}
    for kind, label in labels.items():
        found = [
            kept.result(
                f"iterations-{kind}-{seed}",
                lambda k=kind, s=seed: [accuracy(load_model(kept.model(k, s)), number) for number in ITERATIONS],
            )
            for seed in seeds
        ]
        rows[label] = list(zip(*found, strict=True))
    return rows


def told(title: str, columns: Sequence[str], rows: Table) -> None:
    """A table in Markdown, mean and standard deviation over seeds in percent."""
    print(f"\n| {title} | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for label, values in rows.items():
        cells = [f"{100 * statistics.mean(of):.1f} ± {100 * _deviation(of):.1f}" for of in values]
        print(f"| {label} | {' | '.join(cells)} |")
    print(flush=True)


def picture(letters: Table) -> bytes:
    """Accuracy by samples of each letter: a line a method, a band of one standard deviation over seeds."""

    def draw():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for (label, values), colour in zip(letters.items(), COLOURS, strict=False):
            mean = [100 * statistics.mean(of) for of in values]
            spread = [100 * _deviation(of) for of in values]
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

    return png(draw)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    sys.exit(main())
