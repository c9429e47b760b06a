"""Compatibilities from types and signatures."""

from __future__ import annotations

import math

import torch

from ni_framework.nn.kernel import cosine_distance, normalise_kernel, to_unit_length, truncated_kernel

B, U, V, T = 2, 3, 5, 4


def randn_kernel(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_unit_has_length_one_and_the_same_direction() -> None:
    x = randn_kernel(B, V, T)
    torch.testing.assert_close(to_unit_length(x).norm(dim=-1), torch.ones(B, V, dtype=torch.float64))
    torch.testing.assert_close(to_unit_length(x) * x.norm(dim=-1, keepdim=True), x)
    assert not to_unit_length(torch.zeros(T)).any()


def test_distance_of_each_pair() -> None:
    type_BVT, signature_UT = to_unit_length(randn_kernel(B, V, T)), to_unit_length(randn_kernel(U, T, seed=1))
    found = cosine_distance(type_BVT, signature_UT)
    assert found.shape == (B, U, V)
    for b in range(B):
        for u in range(U):
            for i in range(V):
                assert math.isclose(found[b, u, i], 1 - float(signature_UT[u] @ type_BVT[b, i]), abs_tol=1e-14)


def test_distance_runs_from_0_to_2() -> None:
    type_BVT = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    assert cosine_distance(type_BVT, torch.tensor([[1.0, 0.0]])).tolist() == [[[0.0, 1.0, 2.0]]]


def test_kernel_is_open_below_the_truncation_only() -> None:
    """Distances smaller than tau are open; tau itself and larger ones are closed and get no gradient."""
    distance_BUV = torch.tensor([[[0.0, 0.25, 0.5, 0.75, 2.0]]], dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.5, dtype=torch.float64)
    kernel = truncated_kernel(distance_BUV, sigma, 0.5)
    torch.testing.assert_close(
        kernel.detach(), torch.tensor([[[1.0, math.exp(-0.5), 0.0, 0.0, 0.0]]], dtype=torch.float64)
    )
    (gradient,) = torch.autograd.grad(kernel.sum(), distance_BUV)
    expected = torch.tensor([[[-2.0, -2 * math.exp(-0.5), 0.0, 0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


def test_kernel_decreases_more_slowly_with_larger_bandwidth() -> None:
    d = torch.full((1, 1, 1), 0.6)
    narrow, wide = (truncated_kernel(d, torch.tensor(sigma), 1.0).item() for sigma in (0.3, 3.0))
    assert math.isclose(narrow, math.exp(-2), rel_tol=1e-6)
    assert math.isclose(wide, math.exp(-0.2), rel_tol=1e-6)


def test_bandwidth_gets_a_gradient() -> None:
    sigma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    d = torch.rand(B, U, V, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(lambda s: truncated_kernel(d, s, 0.6), [sigma])


def test_compatibilities_sum_to_one_over_functions() -> None:
    kernel_BUV = torch.rand(B, U, V, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    kernel_BUV[:, :, 1] = 0
    kernel_BUV[:, 0, 2] = 0
    c_BUV = normalise_kernel(kernel_BUV)
    total_BV = c_BUV.sum(dim=1)
    torch.testing.assert_close(total_BV[:, [0, 2, 3, 4]], torch.ones(B, 4, dtype=torch.float64), atol=1e-4, rtol=0)
    assert not total_BV[:, 1].any()
    assert not c_BUV[:, 0, 2].any()
    assert c_BUV[1, 2, 3] == kernel_BUV[1, 2, 3] / (1e-6 + kernel_BUV[1, :, 3].sum())
