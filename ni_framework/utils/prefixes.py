"""Names with a common prefix, as in "sum/loss" and "sum/accuracy"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def strip_prefix(prefix: str, values: Mapping[str, T]) -> dict[str, T]:
    """Returns the entries whose name starts with `prefix`, under the rest of their name."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
