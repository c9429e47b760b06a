"""The gradients of each CPU kernel compared with numerical differences, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ni_framework.nn.cpu.block_attention import Block, block_attention
from ni_framework.nn.cpu.dense_attention import dense_attention
from ni_framework.nn.cpu.matmul import grouped_product, scaled_product
from ni_framework.nn.cpu.permute_rows import permute_rows
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.nn.mod_attention import AttentionMaps, mod_attention
from ni_framework.nn.mod_mlp import fused_line_tail
from ni_framework.nn.modlin import ModulatedMap, Modulation

B, U, V, D, H = 2, 3, 4, 4, 2


def random_leaf(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def random_compatibilities() -> Tensor:
    """Compatibilities [B, U, V], of which some are closed."""
    c_BUV = torch.rand(B, U, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2
    c_BUV[0, 1] = 0
    c_BUV[1, 2, 1:3] = 0
    return c_BUV


@pytest.mark.slow
@pytest.mark.parametrize("shared_positions", [True, False])
def test_dense_attention(shared_positions: bool) -> None:
    arguments = [random_leaf(U, B, V, H, 3, seed=1), random_leaf(U, B, V, H, 3, seed=2)]
    arguments += [random_leaf(U, B, V, H, 2, seed=3), random_leaf(U, B, V, seed=4)]
    arguments.append(random_leaf(1 if shared_positions else U, H, V, V, seed=5))
    assert torch.autograd.gradcheck(dense_attention, arguments)


def test_block_attention() -> None:
    blocks = [Block(2, 1), Block(1, 3)]
    arguments = [random_leaf(5, 3, seed=1), random_leaf(5, 3, seed=2), random_leaf(5, 2, seed=3)]
    arguments += [random_leaf(5, seed=4), random_leaf(2, 1, 1, seed=5), random_leaf(1, 3, 3, seed=6)]

    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *positions: Tensor) -> Tensor:
        return block_attention(query, key, value, bias, blocks, positions)

    assert torch.autograd.gradcheck(attend, arguments)


@pytest.mark.parametrize("functions_of_x", [1, U])
def test_grouped_product(functions_of_x: int) -> None:
    arguments = [random_leaf(functions_of_x, 5, D, seed=1), random_leaf(U, 2, D, seed=2), random_leaf(2, seed=3)]
    assert torch.autograd.gradcheck(grouped_product, arguments)


def test_scaled_product_of_two_maps() -> None:
    function_P = torch.tensor([0, 2, 1, 2, 0])
    arguments = [random_leaf(5, D, seed=1), random_leaf(3, D, seed=2), random_leaf(U, D, seed=3)]
    arguments += [random_leaf(3, seed=4), random_leaf(2, D, seed=5), random_leaf(U, D, seed=6)]

    def multiply(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, weight_2: Tensor, scale_2: Tensor) -> Tensor:
        maps = [ModulatedMap(weight, scale, bias), ModulatedMap(weight_2, scale_2, None)]
        return scaled_product(x, function_P, maps)

    assert torch.autograd.gradcheck(multiply, arguments)


def test_permute_rows() -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert torch.autograd.gradcheck(
        lambda rows: permute_rows(rows, order, order.argsort()), [random_leaf(4, 3, seed=1)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("functions_of_z", [1, U])
def test_attention_with_wide_keys(functions_of_z: int) -> None:
    """The keys of a head are wider than half an element, so that the elements are the keys."""
    key_width = 3
    arguments = [random_leaf(functions_of_z, B, V, D, seed=1)]
    arguments += [random_leaf(H * key_width, D, seed=2), random_leaf(H * key_width, D, seed=3)]
    arguments += [random_leaf(D, D, seed=4), random_leaf(D, seed=5), random_leaf(U, D, seed=6)]
    arguments += [random_leaf(1, H, V, V, seed=7), random_compatibilities().clamp_min(0.1).requires_grad_()]

    def attend(
        z: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: Tensor, position: Tensor, c: Tensor
    ) -> Tensor:
        maps = AttentionMaps(
            Modulation(ModulatedMap(query, scale, None)),
            Modulation(ModulatedMap(key, scale, None)),
            Modulation(ModulatedMap(value, scale, bias)),
            H,
        )
        assert maps.has_wide_keys
        return mod_attention(z, maps, position, DensePairs(c))

    assert torch.autograd.gradcheck(attend, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_fused_line_tail(layout: type[DensePairs] | type[PackedPairs]) -> None:
    norm = nn.LayerNorm(D).double()
    with torch.no_grad():
        norm.weight.copy_(random_leaf(D, seed=3))
    c_BUV = random_compatibilities()
    arguments = [random_leaf(B, V, D, seed=1), random_leaf(U, D, seed=2), random_leaf(D, seed=4)]
    arguments += [random_leaf(D, D, seed=5), random_leaf(5, D, seed=6), random_leaf(5, seed=7)]
    arguments += [random_leaf(D, 5, seed=8), random_leaf(U, 5, seed=9)]

    def run_tail(
        x: Tensor,
        scale: Tensor,
        bias: Tensor,
        out: Tensor,
        first: Tensor,
        first_bias: Tensor,
        second: Tensor,
        second_scale: Tensor,
        *_: Tensor,
    ) -> Tensor:
        pairs = layout(c_BUV)
        maps = (
            Modulation(ModulatedMap(out, scale, bias)),
            Modulation(ModulatedMap(first, scale, first_bias)),
            Modulation(ModulatedMap(second, second_scale, None)),
        )
        x_RD = pairs.dispatch(x)
        return pairs.combine(fused_line_tail(x_RD, x_RD * pairs.expand(scale), norm, maps, pairs))

    # The parameters of the norm are perturbed in place.
    assert torch.autograd.gradcheck(run_tail, [*arguments, norm.weight, norm.bias])


@pytest.mark.parametrize("layout", [DensePairs, PackedPairs])
def test_fused_line_tail_of_compatibilities(layout: type[DensePairs] | type[PackedPairs]) -> None:
    norm = nn.LayerNorm(D).double()
    maps = [
        Modulation(
            ModulatedMap(
                random_leaf(D, D, seed=seed).detach(),
                random_leaf(U, D, seed=seed + 1).detach(),
                random_leaf(D, seed=seed + 2).detach(),
            )
        )
        for seed in (1, 4, 7)
    ]
    x_BVD, value_UD = random_leaf(B, V, D, seed=10), random_leaf(U, D, seed=11)

    def run_tail(c_BUV: Tensor) -> Tensor:
        pairs = layout(c_BUV)
        x_RD = pairs.dispatch(x_BVD)
        return pairs.combine(
            fused_line_tail(x_RD, x_RD * pairs.expand(value_UD), norm, (maps[0], maps[1], maps[2]), pairs)
        )

    assert torch.autograd.gradcheck(run_tail, [random_compatibilities().clamp_min(0.1).requires_grad_()])
