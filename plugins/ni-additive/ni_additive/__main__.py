"""`python -m ni_additive RUN --output contributions.png`: held-out images beside what each of their patches contributed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ni_framework.errors import NIError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code is 0, or that of an error that was told."""
    parser = argparse.ArgumentParser(
        prog="python -m ni_additive",
        description="Draws held-out images of a trained model with the head `additive` beside what each patch "
        "contributed to the predicted class.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("--samples", type=int, default=10, metavar="N", help="number of images (default: %(default)s)")
    parser.add_argument("--task", metavar="NAME", help="the task to explain (default: the model's first)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the PNG to write")
    given = parser.parse_args(arguments)
    if given.samples < 1:
        parser.error(f"--samples: must be at least 1, not {given.samples}")
    from ni_additive.contributions_figure import picture
    from ni_additive.explain import explained  # imports torch: only once the arguments make sense

    try:
        content = picture(explained(given.run, given.samples, given.task))
    except NIError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    try:
        given.output.write_bytes(content)
    except OSError as error:
        print(f"error: {given.output}: {error.strerror}; choose another place for --output", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
