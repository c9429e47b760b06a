"""The first step of reading a scalar: from unquoted text to a value, by YAML 1.2's core schema and without the recipe's schema.

`1e-3` and `.5` are numbers; `no`, `on`, `1:30`, `1_000` and `2001-01-01` are text; `0777` is 777. Whether that value suits its
key is decided later, in `validate/scalar_types.py`.
"""

from __future__ import annotations

import re

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_KEYWORD_VALUES = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
# Far more digits than any number of 64 bits has.
_DIGITS = 40


def parse_plain_scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain (unquoted) scalar.

    Raises `ValueError` for a whole number beyond 64 bits: no value in a recipe is that large, and converting very long ones
    takes long.
    """
    if text in _KEYWORD_VALUES:
        return _KEYWORD_VALUES[text]
    if text[0] not in "+-.0123456789":
        return text
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return _parse_integer(text if base == 10 else text[2:], base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


def _parse_integer(digits: str, base: int) -> int:
    digits = digits.lstrip("+0") or "0"
    if len(digits) > _DIGITS * (2 if base == 8 else 1) or not -(2**63) <= int(digits, base) < 2**64:
        raise ValueError("is beyond 64 bits")
    return int(digits, base)
