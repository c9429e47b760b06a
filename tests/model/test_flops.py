"""FLOPs: those of a recipe's model, and those of packed execution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ni_framework import load_recipe
from ni_framework.model.flops import count_flops
from ni_framework.model.script import Script
from tests.helpers.models import FixedRouter, build_tiny_model, first_script

PAPER_RECIPE_PATH = Path(__file__).parents[2] / "recipes" / "paper" / "digits.yaml"


def test_flops_of_the_preset() -> None:
    """6.2 GFLOP for training on an image, term by term: a multiply-add is two, the backward pass twice the forward pass."""
    U, V, D, H, K, T, C, tasks = 5, 65, 192, 4, 128, 24, 192, 3
    maps = U * V * (2 * D * H * K + 4 * D * D)
    attention = U * V * V * H * (K + D // H)
    routing = V * (D * D + D * T) + U * V * T
    forward = 2 * (8 * (maps + attention + routing) + 64 * 48 * D + tasks * D * 10)
    found = count_flops(load_recipe(PAPER_RECIPE_PATH))
    assert found.per_image == forward
    assert 3 * found.per_image == pytest.approx(6.2e9, rel=0.01)
    # Once for each batch: scales of the codes, and logits of positions.
    scales = 6 * U * D * C
    positions = 2 * (H * K * 15 + U * C * H)
    assert found.per_batch == 2 * (scales + positions)
    assert found.forward_flops(7) == 7 * found.per_image + found.per_batch


B, U, V, D, H, K, HIDDEN = 3, 4, 7, 8, 2, 2, 11
# Multiply-adds of a row: queries and keys, values and out, MLP.
ROW_MAPS = 2 * D * H * K + 2 * D * D + 2 * D * HIDDEN


def count_script_flops(script: Script, training: bool) -> int:
    x_BVD = torch.randn(B, V, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        output_BVD = script(x_BVD).output_BVD
        if training:
            output_BVD.sum().backward()
    return counter.get_total_flops()


def build_packed_script(opened_BUV: torch.Tensor) -> Script:
    script = first_script(
        build_tiny_model("model.execution=packed", f"model.body.key={K}", "model.type_inference=none")
    )
    script.router = FixedRouter(opened_BUV)
    return script


def all_closed() -> torch.Tensor:
    return torch.zeros(B, U, V, dtype=torch.bool)


@pytest.mark.parametrize("open_fraction", [0.1, 0.5, 1.0])
def test_packed_computes_open_pairs_only(open_fraction: float) -> None:
    """Maps are applied to each row; attention costs the sum of the squared group sizes. Exactly, forward and backward."""
    opened_BUV = torch.rand(B, U, V, generator=torch.Generator().manual_seed(3)) < open_fraction
    rows = int(opened_BUV.sum())
    squares = int(opened_BUV.sum(dim=-1).square().sum())
    assert 0 < rows <= B * U * V
    assert (rows == B * U * V) == (open_fraction == 1)
    # 3 iterations, 2 FLOPs for each multiply-add.
    forward = 3 * 2 * (rows * ROW_MAPS + squares * H * (K + D // H))
    script, closed_script = build_packed_script(opened_BUV), build_packed_script(all_closed())
    assert count_script_flops(script, training=False) - count_script_flops(closed_script, training=False) == forward
    assert count_script_flops(script, training=True) - count_script_flops(closed_script, training=True) == 3 * forward


def test_dense_computes_all_pairs() -> None:
    script = first_script(build_tiny_model(f"model.body.key={K}", "model.type_inference=none"))
    all_pairs = torch.ones(B, U, V, dtype=torch.bool)
    script.router = FixedRouter(all_pairs)
    everything = count_script_flops(script, training=False)
    script.router = FixedRouter(all_closed())
    assert count_script_flops(script, training=False) == everything
    assert count_script_flops(build_packed_script(all_pairs), training=False) == everything
