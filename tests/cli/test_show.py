"""`ni show RECIPE`: its tables and its document."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.cli.output import format_bytes
from tests.cli.conftest import RunNi

RECIPES = Path(__file__).parents[2] / "recipes"


def test_tables_of_large_model_fit_screen(ni: RunNi) -> None:
    """The tables list modules with totals, then tensors, the largest first; equal ones share a line."""
    result = ni("show", RECIPES / "scale" / "10b.yaml")
    assert result.code == 0
    tables = result.out.partition("\n# ")[2]
    summary, modules, tensors = tables.split("\n\n")
    assert summary == "10,074,075,006 parameters, 197 elements, 22 scripts of 4 functions x 4 iterations"
    assert modules.splitlines()[:4] == [
        "part                             parameters     fp32  times         each",
        "input                             3,952,640  15.8 MB      1    3,952,640",
        "scripts.0-21                 10,066,013,078  40.3 GB     22  457,546,049",
        "scripts.0-21.embedding               50,688   203 kB     22        2,304",
    ]
    assert tensors.splitlines()[:2] == [
        "tensor                                                   parameters     fp32  times        each  shape",
        "scripts.0-21.body.lines.0-1.maps.mlp_in.weight        2,952,790,016  11.8 GB     44  67,108,864  16384x4096",
    ]
    assert tensors.splitlines()[-1].split() == [
        "scripts.0-21.router.log_bandwidth",
        "22",
        "88",
        "B",
        "22",
        "1",
        "scalar",
    ]
    assert len(tables.splitlines()) < 60


def test_document_has_every_parameter(ni: RunNi) -> None:
    document = ni("show", RECIPES / "scale" / "10b.yaml", "--json").json
    shapes = {parameter["name"]: parameter["shape"] for parameter in document["parameters"]}
    assert shapes["scripts.21.body.lines.1.maps.mlp_out.weight"] == [4096, 16384]
    assert len(shapes) == 1086
    assert document["sizes"]["parameters"] == 10_074_075_006


@pytest.mark.parametrize(
    ("number", "expected"),
    [(None, "-"), (0, "-"), (999, "999 B"), (1000, "1 kB"), (40.3e9, "40.3 GB"), (1.234e15, "1.23e+03 TB")],
)
def test_format_bytes(number: float | None, expected: str) -> None:
    assert format_bytes(number) == expected
