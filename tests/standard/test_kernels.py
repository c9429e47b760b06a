"""Kernels without draws: what straight-through promises, and what it repairs."""

from __future__ import annotations

import torch

from tests.helpers.routers import B, U, V, compatibility, context, router_of, types_and_signatures

OPTIONS = "truncation: 0.6, bandwidth: 1"


def test_straight_through_has_the_values_of_the_kernel_exactly() -> None:
    """Closed is 0, not a rounding: packed execution and masks hang on it."""
    types = types_and_signatures()
    found = compatibility(router_of(f"{{use: straight_through_kernel, {OPTIONS}}}"), *types, context())
    assert torch.equal(found, compatibility(router_of(f"{{use: kernel, {OPTIONS}}}"), *types, context()))
    assert bool((found == 0).any())


def test_straight_through_has_the_gradient_of_the_open_kernel() -> None:
    """That of truncation 2, at every pair: bounded also for elements that no function takes."""
    type_BVT, signature_UT = types_and_signatures()
    weight = torch.randn(B, U, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = []
    for text in (f"{{use: straight_through_kernel, {OPTIONS}}}", "{use: kernel, truncation: 2, bandwidth: 1}"):
        seen = type_BVT.clone().requires_grad_()
        (compatibility(router_of(text), seen, signature_UT, context()) * weight).sum().backward()
        gradients.append(seen.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    orphan_BV = (compatibility(router_of(f"{{use: kernel, {OPTIONS}}}"), type_BVT, signature_UT, context()) == 0).all(
        dim=1
    )
    assert orphan_BV.any()
    assert bool(gradients[0][orphan_BV].any())
    assert float(gradients[0].abs().max()) < 10


def test_unnormalised_functions_do_not_compete() -> None:
    """Without the other functions a function takes as much."""
    router = router_of(f"{{use: unnormalised_kernel, {OPTIONS}}}")
    type_BVT, signature_UT = types_and_signatures()
    found = compatibility(router, type_BVT, signature_UT, context())
    torch.testing.assert_close(compatibility(router, type_BVT, signature_UT[:1], context()), found[:, :1])
    assert float(found.detach().sum(dim=1).max()) > 1


def test_always_open_is_even() -> None:
    found = compatibility(router_of("always_open"), *types_and_signatures(), context())
    assert torch.equal(found, torch.full((B, U, V), 1 / U, dtype=torch.float64))
