"""Operations are counted: what a recipe asks for, and what packed execution spends on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ni_framework import load_recipe
from ni_framework.model.flops import operations
from ni_framework.model.script import Script
from tests.helpers.models import FixedRouter, script_of, tiny_of

PAPER = Path(__file__).parents[2] / "recipes" / "paper" / "digits.yaml"


def test_the_preset_takes_its_operations() -> None:
    """6.2 GFLOP of training an image, term by term: a multiply-add is two, the way back twice the way forward."""
    U, V, D, H, K, T, C, tasks = 5, 65, 192, 4, 128, 24, 192, 3
    maps = U * V * (2 * D * H * K + 4 * D * D)
    attention = U * V * V * H * (K + D // H)
    routing = V * (D * D + D * T) + U * V * T
    forward = 2 * (8 * (maps + attention + routing) + 64 * 48 * D + tasks * D * 10)
    found = operations(load_recipe(PAPER))
    assert found.image == forward
    assert 3 * found.image == pytest.approx(6.2e9, rel=0.01)
    # Once for each batch: scales of the codes, and logits of positions.
    scales = 6 * U * D * C
    positions = 2 * (H * K * 15 + U * C * H)
    assert found.batch == 2 * (scales + positions)
    assert found.inference(7) == 7 * found.image + found.batch


B, U, V, D, H, K, HIDDEN = 3, 4, 7, 8, 2, 2, 11
ROW_MAPS = 2 * D * H * K + 2 * D * D + 2 * D * HIDDEN  # multiply-adds of a row: queries, keys, values and out, MLP


def spent(script: Script, training: bool) -> int:
    x_BVD = torch.randn(B, V, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        output_BVD = script(x_BVD).output_BVD
        if training:
            output_BVD.sum().backward()
    return counter.get_total_flops()


def packed_script(opened_BUV: torch.Tensor) -> Script:
    script = script_of(tiny_of("model.execution=packed", f"model.body.key={K}", "model.type_inference=none"))
    script.router = FixedRouter(opened_BUV)
    return script


def empty() -> torch.Tensor:
    return torch.zeros(B, U, V, dtype=torch.bool)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_packed_spends_operations_on_open_pairs_alone(share: float) -> None:
    """Maps: as many as there are rows; attention: the sum of the squares of the groups' sizes. Exactly, forward and back."""
    opened_BUV = torch.rand(B, U, V, generator=torch.Generator().manual_seed(3)) < share
    rows = int(opened_BUV.sum())
    squares = int(opened_BUV.sum(dim=-1).square().sum())
    assert 0 < rows <= B * U * V
    assert (rows == B * U * V) == (share == 1)
    forward = 3 * 2 * (rows * ROW_MAPS + squares * H * (K + D // H))  # iterations, multiply-adds
    script, nothing = packed_script(opened_BUV), packed_script(empty())
    assert spent(script, training=False) - spent(nothing, training=False) == forward
    assert spent(script, training=True) - spent(nothing, training=True) == 3 * forward


def test_dense_spends_operations_on_all_pairs() -> None:
    script = script_of(tiny_of(f"model.body.key={K}", "model.type_inference=none"))
    all_pairs = torch.ones(B, U, V, dtype=torch.bool)
    script.router = FixedRouter(all_pairs)
    everything = spent(script, training=False)
    script.router = FixedRouter(empty())
    assert spent(script, training=False) == everything
    assert spent(packed_script(all_pairs), training=False) == everything
