"""Benchmark of `recipes/digits.yaml`: held-out accuracy of the training seeds 0, 1, 2, and the speed of training.

Run as `python tests/benchmarks/digits.py`; takes about four minutes on two CPU cores. Ends with exit code 1 if the mean is
below 98 % or the fastest training above 90 s. `python tests/benchmarks/digits.py vit_digits.yaml` measures another recipe.
"""

from __future__ import annotations

import sys

from train_seeds import DEFAULT_SEEDS, seed_mean, train_recipe


def main(recipe: str = "digits.yaml") -> int:
    """Trains, prints a table, and returns exit code 1 if accuracy or speed is below its bound."""
    accuracies, seconds = [], []
    for seed in DEFAULT_SEEDS:
        summary = train_recipe(recipe, seed)
        accuracies.append(summary["metrics"]["test/accuracy"])
        seconds.append(summary["seconds"])
        print(f"seed {seed}: {accuracies[-1]:.2%} held out, {seconds[-1]:.1f} s of training", flush=True)
    print(f"mean {seed_mean(accuracies):.2%} (at least 98 %), fastest {min(seconds):.1f} s (at most 90 s)")
    return 0 if seed_mean(accuracies) >= 0.98 and min(seconds) <= 90 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
