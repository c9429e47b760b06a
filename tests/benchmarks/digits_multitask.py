"""Benchmark of the multi-task experiment: an interpreter and a transformer of equal size, seeds 0, 1, 2, task by task.

Run as `python tests/benchmarks/digits_multitask.py`; takes about 25 minutes on two CPU cores. Ends with exit code 1 if the
interpreter's mean accuracy is below 90 % or the transformer's, or if a training took more than ten minutes.
"""

from __future__ import annotations

import sys

from train_seeds import DEFAULT_SEEDS, seed_mean, train_recipe

RECIPES = ("digits_multitask.yaml", "vit_digits_multitask.yaml")
TASKS = ("plain", "textured", "tinted")


def main() -> int:
    """Trains, prints a table, and returns exit code 1 if accuracy or speed is below its bound."""
    means, slowest = {}, 0.0
    print(f"{'recipe':28} seed  parameters  {'  '.join(f'{task:>8}' for task in TASKS)}      mean  seconds")
    for recipe in RECIPES:
        rows = []
        for seed in DEFAULT_SEEDS:
            summary = train_recipe(recipe, seed)
            metrics = summary["metrics"]
            rows.append([*(metrics[f"test/accuracy/{task}"] for task in TASKS), metrics["test/accuracy"]])
            slowest = max(slowest, summary["seconds"])
            formatted_row = "  ".join(f"{value:8.2%}" for value in rows[-1])
            print(
                f"{recipe:28} {seed:4}  {summary['parameters']:10,}  {formatted_row}  {summary['seconds']:7.1f}",
                flush=True,
            )
        columns = [seed_mean(list(column)) for column in zip(*rows, strict=True)]
        means[recipe] = columns[-1]
        print(f"{recipe:28} mean              {'  '.join(f'{value:8.2%}' for value in columns)}")
    ours, theirs = means.values()
    print(
        f"interpreter {ours:.2%} (at least 90 % and the transformer's {theirs:.2%}), slowest {slowest:.0f} s (at most 600 s)"
    )
    return 0 if ours >= max(0.9, theirs) and slowest <= 600 else 1


if __name__ == "__main__":
    sys.exit(main())
