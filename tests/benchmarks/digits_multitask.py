"""The figures of the multi-task experiment: an interpreter and a transformer of equal size, seeds 0, 1, 2, each task named.

Run as `python tests/benchmarks/digits_multitask.py`; takes about 25 minutes on two CPU cores. Ends with exit code 1 if the
interpreter's mean accuracy is below 90 % or the transformer's, or if a training took more than ten minutes.
"""

from __future__ import annotations

import sys

from train_seeds import SEEDS, mean, trained

RECIPES = ("digits_multitask.yaml", "vit_digits_multitask.yaml")
TASKS = ("plain", "textured", "tinted")


def main() -> int:
    """Trains, prints a table, and compares it with the figures."""
    means, slowest = {}, 0.0
    print(f"{'recipe':28} seed  parameters  {'  '.join(f'{task:>8}' for task in TASKS)}      mean  seconds")
    for recipe in RECIPES:
        rows = []
        for seed in SEEDS:
            summary = trained(recipe, seed)
            metrics = summary["metrics"]
            rows.append([*(metrics[f"test/accuracy/{task}"] for task in TASKS), metrics["test/accuracy"]])
            slowest = max(slowest, summary["seconds"])
            shown = "  ".join(f"{value:8.2%}" for value in rows[-1])
            print(f"{recipe:28} {seed:4}  {summary['parameters']:10,}  {shown}  {summary['seconds']:7.1f}", flush=True)
        columns = [mean(list(column)) for column in zip(*rows, strict=True)]
        means[recipe] = columns[-1]
        print(f"{recipe:28} mean              {'  '.join(f'{value:8.2%}' for value in columns)}")
    ours, theirs = means.values()
    print(
        f"interpreter {ours:.2%} (at least 90 % and the transformer's {theirs:.2%}), slowest {slowest:.0f} s (at most 600 s)"
    )
    return 0 if ours >= max(0.9, theirs) and slowest <= 600 else 1


if __name__ == "__main__":
    sys.exit(main())
