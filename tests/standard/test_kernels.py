"""Kernel routers without random draws."""

from __future__ import annotations

import torch

from tests.helpers.routers import B, U, V, build_router, make_context, random_types_and_signatures, route

OPTIONS = "truncation: 0.6, bandwidth: 1"


def test_straight_through_has_exactly_the_values_of_the_kernel() -> None:
    """Closed pairs are exactly 0, because packed execution and masks depend on it."""
    types = random_types_and_signatures()
    actual = route(build_router(f"{{use: straight_through_kernel, {OPTIONS}}}"), *types, make_context())
    assert torch.equal(actual, route(build_router(f"{{use: kernel, {OPTIONS}}}"), *types, make_context()))
    assert bool((actual == 0).any())


def test_straight_through_has_the_gradient_without_truncation() -> None:
    """It is that of truncation 2 for every pair, and is bounded for elements that no function takes."""
    type_BVT, signature_UT = random_types_and_signatures()
    weight = torch.randn(B, U, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = []
    for text in (f"{{use: straight_through_kernel, {OPTIONS}}}", "{use: kernel, truncation: 2, bandwidth: 1}"):
        leaf_BVT = type_BVT.clone().requires_grad_()
        (route(build_router(text), leaf_BVT, signature_UT, make_context()) * weight).sum().backward()
        gradients.append(leaf_BVT.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    orphan_BV = (route(build_router(f"{{use: kernel, {OPTIONS}}}"), type_BVT, signature_UT, make_context()) == 0).all(
        dim=1
    )
    assert orphan_BV.any()
    assert bool(gradients[0][orphan_BV].any())
    assert float(gradients[0].abs().max()) < 10


def test_unnormalised_functions_do_not_compete() -> None:
    """The compatibilities of a function do not depend on the other functions."""
    router = build_router(f"{{use: unnormalised_kernel, {OPTIONS}}}")
    type_BVT, signature_UT = random_types_and_signatures()
    actual = route(router, type_BVT, signature_UT, make_context())
    torch.testing.assert_close(route(router, type_BVT, signature_UT[:1], make_context()), actual[:, :1])
    assert float(actual.detach().sum(dim=1).max()) > 1


def test_always_open_is_uniform() -> None:
    actual = route(build_router("always_open"), *random_types_and_signatures(), make_context())
    assert torch.equal(actual, torch.full((B, U, V), 1 / U, dtype=torch.float64))
