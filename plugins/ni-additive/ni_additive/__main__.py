"""`python -m ni_additive RUN --output contributions.png`: draws held-out images and the contributions of their patches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ni_framework.errors import NIError


def run_contributions_command(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or that of the error that was printed."""
    parser = argparse.ArgumentParser(
        prog="python -m ni_additive",
        description="Draws held-out images of a trained model with the head `additive`, and the contribution of each patch "
        "to the predicted class.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("--samples", type=int, default=10, metavar="N", help="number of images (default: %(default)s)")
    parser.add_argument("--task", metavar="NAME", help="the task to explain (default: the model's first)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the PNG to write")
    options = parser.parse_args(arguments)
    if options.samples < 1:
        parser.error(f"--samples: must be at least 1, not {options.samples}")
    # These import torch, which is slow: only for valid arguments.
    from ni_additive.contributions_figure import draw_contributions
    from ni_additive.explain import explain_samples

    try:
        content = draw_contributions(explain_samples(options.run, options.samples, options.task))
    except NIError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    try:
        options.output.write_bytes(content)
    except OSError as error:
        print(f"error: {options.output}: {error.strerror}; choose another place for --output", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_contributions_command())
