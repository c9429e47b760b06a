"""Numbers that JSON cannot represent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def nonfinite_to_null(value: Any) -> Any:
    """Returns a document in which each number that is not finite is replaced by None."""
    if isinstance(value, Mapping):
        return {name: nonfinite_to_null(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [nonfinite_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
