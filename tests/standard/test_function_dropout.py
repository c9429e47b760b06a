"""Functions that are left out of samples."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.routers import U, compatibility, context, router_of, types_and_signatures

KEEP = 0.6
INNER = "inner: {use: kernel, truncation: 2}"


def kept(text: str, iteration: int = 0, number: int = 3000) -> torch.Tensor:
    """Which functions are kept, [number, U]; a function is kept or left out with all of a sample's elements."""
    router = router_of(text).train()
    type_BVT, signature_UT = types_and_signatures(batch=number)
    opened = compatibility(router, type_BVT, signature_UT, context(iteration, batch=number)) > 0
    assert torch.equal(opened.any(dim=2), opened.all(dim=2))
    return opened.any(dim=2)


def test_functions_are_kept_as_often_as_asked() -> None:
    share_U = kept(f"{{use: function_dropout, keep: {KEEP}, {INNER}}}").double().mean(dim=0)
    assert bool(((share_U - KEEP).abs() < 5 * (KEEP * (1 - KEEP) / 3000) ** 0.5).all())


@pytest.mark.parametrize("once", ["true", "false"])
def test_once_keeps_the_same_functions_in_all_iterations(once: str) -> None:
    text = f"{{use: function_dropout, keep: {KEEP}, once: {once}, {INNER}}}"
    assert torch.equal(kept(text, 0), kept(text, 5)) is (once == "true")


def test_evaluation_is_the_mean_of_training() -> None:
    router = router_of(f"{{use: function_dropout, keep: {KEEP}, {INNER}}}").eval()
    plain = router_of("{use: kernel, truncation: 2, bandwidth: 1}")
    types = types_and_signatures()
    found = compatibility(router, *types, context())
    torch.testing.assert_close(found, KEEP * compatibility(plain, *types, context()))
    assert found.shape[1] == U


def test_it_promises_what_the_inner_router_promises() -> None:
    assert router_of("{use: function_dropout, inner: straight_through_kernel}").gradient_through_closed
    assert not router_of("{use: function_dropout, inner: unnormalised_kernel}").normalised
    assert router_of("function_dropout").normalised
