"""The errors of `load_author_model` against the author's own numbers, in float64: `python tests/benchmarks/author_parity.py`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch

from ni_framework import load_author_model, trace

FOLDER = Path(__file__).parents[1] / "parity"


def main() -> None:
    """Prints the largest error of each kind for each file."""
    for path in sorted(FOLDER.glob("*.npz")):
        stored = numpy.load(path)
        vectors = {
            prefix: {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}
            for prefix in ("state/", "prediction/", "compatibility/", "output/", "grad/")
        }
        model = load_author_model(json.loads(str(stored["config"])), vectors["state/"])
        images = torch.from_numpy(stored["input"])
        logits = model(images)
        model_trace = trace(model, images)
        torch.stack(
            [(x * torch.linspace(-1, 1, x.shape[1], dtype=x.dtype)).sum() for x in logits.values()]
        ).sum().backward()
        squares = [parameter.grad.square().sum() for parameter in model.parameters() if parameter.grad is not None]
        norm = float(torch.stack(squares).sum().sqrt())
        expected_norm = numpy.sqrt(sum(numpy.square(gradient).sum() for gradient in vectors["grad/"].values()))
        errors = {
            "logits": max(_error(logits[task], value) for task, value in vectors["prediction/"].items()),
            "compatibilities": max(
                _error(compatibility, vectors["compatibility/"][f"script{script}/iteration{iteration}"])
                for script, compatibilities in enumerate(model_trace.compatibility)
                for iteration, compatibility in enumerate(compatibilities)
            ),
            "outputs": max(
                _error(output, vectors["output/"][f"script{script}"])
                for script, output in enumerate(model_trace.outputs)
            ),
            "norm of the gradient, relative": abs(norm / expected_norm - 1),
        }
        print(path.stem, *(f"  {name}: {error:.1e}" for name, error in errors.items()), sep="\n")


def _error(ours: torch.Tensor, theirs: numpy.ndarray) -> float:
    return float(numpy.abs(ours.detach().numpy() - theirs).max())


if __name__ == "__main__":
    main()
