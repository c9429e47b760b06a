"""Relative positions compared with loops, on a grid with different numbers of rows and columns."""

from __future__ import annotations

import math

import pytest
import torch

from ni_framework.nn.relative_positions import Mixing, RelativePositions

ROWS, COLUMNS, HEADS, WIDTH, U, C = 2, 4, 3, 6, 5, 7
MIXINGS: list[Mixing] = ["shared", "dot", "sep_sum", "seq_sum"]


def build_relative_positions(mixing: Mixing) -> RelativePositions:
    positions = RelativePositions((ROWS, COLUMNS), HEADS, WIDTH, C, mixing).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in positions.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return positions


def random_codes() -> torch.Tensor:
    return torch.randn(U, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def offset_logit(positions: RelativePositions, axis: str, index: int, head: int, code: torch.Tensor) -> float:
    """The logit of one difference along one axis, number by number."""
    e = getattr(positions, f"table_{axis}")[index].tolist()
    p = getattr(positions, f"head_{axis}")[head].tolist()
    if positions.mixing == "shared":
        return math.fsum(e_c * p_c for e_c, p_c in zip(e, p, strict=True))
    f = (getattr(positions, f"code_{axis}") @ code).tolist()
    if positions.mixing == "sep_sum":
        return math.fsum(e_c * p_c for e_c, p_c in zip(e, p, strict=True)) + f[head]
    if positions.mixing == "dot":
        return math.fsum(e_c * p_c * f_c for e_c, p_c, f_c in zip(e, p, f, strict=True))
    return math.fsum((e_c + f_c) * p_c for e_c, p_c, f_c in zip(e, p, f, strict=True))


@pytest.mark.parametrize("lead", [0, 1, 2])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_each_pair_of_places(mixing: Mixing, lead: int) -> None:
    positions, code_UC = build_relative_positions(mixing), random_codes()
    size = lead + ROWS * COLUMNS
    found = positions(code_UC, size).detach()
    assert found.shape == (1 if mixing == "shared" else U, HEADS, size, size)
    assert not found[:, :, :lead].any()
    assert not found[:, :, :, :lead].any()
    places = [(i, j) for i in range(ROWS) for j in range(COLUMNS)]
    for u in range(len(found)):
        for head in range(HEADS):
            for n, (i1, j1) in enumerate(places):
                for m, (i2, j2) in enumerate(places):
                    expected = offset_logit(positions, "row", j2 - j1 + COLUMNS - 1, head, code_UC[u])
                    expected += offset_logit(positions, "column", i2 - i1 + ROWS - 1, head, code_UC[u])
                    assert math.isclose(found[u, head, lead + n, lead + m], expected, rel_tol=1e-12, abs_tol=1e-12)


def test_tables_have_one_row_for_each_difference() -> None:
    positions = build_relative_positions("shared")
    assert positions.table_row.shape == (2 * COLUMNS - 1, WIDTH)
    assert positions.table_column.shape == (2 * ROWS - 1, WIDTH)
    assert not hasattr(positions, "code_row")


@pytest.mark.parametrize("mixing", MIXINGS)
def test_logits_are_small_at_the_start(mixing: Mixing) -> None:
    torch.manual_seed(0)
    positions = RelativePositions((ROWS, COLUMNS), HEADS, WIDTH, C, mixing)
    assert positions(random_codes().float(), 9).abs().max() < 0.5
    assert all(bool(parameter.any()) for parameter in positions.parameters())
