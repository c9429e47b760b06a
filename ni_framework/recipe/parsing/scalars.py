"""What a plain scalar means: YAML 1.2's core schema and nothing else.

So `1e-3` and `.5` are numbers, `no`, `on`, `1:30`, `1_000` and `2001-01-01` are text, and `0777` is 777.
"""

from __future__ import annotations

import re

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_DIGITS = 40  # far above any number of 64 bits


def meaning(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar.

    Raises `ValueError` for a whole number beyond 64 bits: nothing in a recipe is that large, and reading very long ones
    takes long.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return _whole(text if base == 10 else text[2:], base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


def _whole(digits: str, base: int) -> int:
    digits = digits.lstrip("+0") or "0"
    if len(digits) > _DIGITS * (2 if base == 8 else 1) or not -(2**63) <= int(digits, base) < 2**64:
        raise ValueError("is beyond 64 bits")
    return int(digits, base)
