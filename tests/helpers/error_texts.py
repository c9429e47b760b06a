"""Texts that users read, kept word by word in files that a reviewer can read as a whole.

All error texts stand in `tests/error_texts/`, one block a case. After a change of words: `NI_REWRITE=1 pytest`, then read the
difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "error_texts"


def expected_errors(area: str, names: Iterable[str], report: Callable[[str], str]) -> dict[str, str]:
    """The expected reports of an area by name of their case, rewritten first where `NI_REWRITE` asks for it."""
    path = FOLDER / f"{area}.txt"
    if os.environ.get("NI_REWRITE"):
        path.write_text("\n".join(f"=== {name}\n{report(name)}" for name in names), encoding="utf-8")
    blocks = path.read_text(encoding="utf-8").split("=== ")[1:]
    return {name: body.rstrip("\n") + "\n" for name, _, body in (block.partition("\n") for block in blocks)}
