"""Values of plain (unquoted) scalars: YAML 1.2's core schema."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ni_framework.recipe.parsing.scalars import parse_plain_scalar

TEXT_SCALARS = [
    "no", "yes", "on", "off", "y", "n", "1:30", "2001-01-01", "1_000", "0b11",
    "1e", "e3", ".", "+", "-", "--1", "1.2.3",
    "0x", "0xg", "0o8", "-0x1", "nan", "inf", "tRUE", "nULL", "none", "1 2", "0x1p3", "\u0661", "\u00b2",
    "+.", ".e3",
]  # fmt: skip
SCALAR_VALUES: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "0": 0, "-0": 0, "+3": 3, "-17": -17, "0777": 777, "0o777": 511, "0x1F": 31,
    str(2**64 - 1): 2**64 - 1, str(-(2**63)): -(2**63),
    "1e-3": 1e-3, "1E5": 1e5, ".5": 0.5, "-.5": -0.5, "1.": 1.0, "3.0e-3": 3e-3, "0.1": 0.1, "1e400": math.inf,
    ".inf": math.inf, "-.INF": -math.inf, "+.Inf": math.inf,
}  # fmt: skip


@pytest.mark.parametrize("text", TEXT_SCALARS)
def test_text_scalars(text: str) -> None:
    """Scalars that other versions of YAML read as other values stay text."""
    assert parse_plain_scalar(text) is text


@pytest.mark.parametrize(("text", "value"), SCALAR_VALUES.items())
def test_scalar_values(text: str, value: object) -> None:
    """Numbers, true, false and null, each with its type."""
    parsed = parse_plain_scalar(text)
    assert type(parsed) is type(value)
    assert parsed == value


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_scalars(text: str) -> None:
    assert math.isnan(parse_plain_scalar(text))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [str(2**64), str(-(2**63) - 1), "0x" + "f" * 17, "0o" + "7" * 500, "9" * 5000])
def test_integers_beyond_64_bits_are_rejected(text: str) -> None:
    """Very long ones too, before they are converted."""
    with pytest.raises(ValueError, match="is beyond 64 bits"):
        parse_plain_scalar(text)
