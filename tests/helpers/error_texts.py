"""Complete error texts, stored in files that a reviewer can read.

The files are in `tests/error_texts/`, with one block for each case. After a change of a text, run `NI_REWRITE=1 pytest` and
read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

ERROR_TEXT_DIR = Path(__file__).parents[1] / "error_texts"


def expected_errors(area: str, names: Iterable[str], report: Callable[[str], str]) -> dict[str, str]:
    """The expected reports by the names of their cases; with `NI_REWRITE` the file is written first.

    Args:
        area: The stem of the file.
        names: The names of the cases, in the order of the file.
        report: Gives the present report of a case, for rewriting.
    """
    path = ERROR_TEXT_DIR / f"{area}.txt"
    if os.environ.get("NI_REWRITE"):
        path.write_text("\n".join(f"=== {name}\n{report(name)}" for name in names), encoding="utf-8")
    blocks = path.read_text(encoding="utf-8").split("=== ")[1:]
    return {name: body.rstrip("\n") + "\n" for name, _, body in (block.partition("\n") for block in blocks)}
