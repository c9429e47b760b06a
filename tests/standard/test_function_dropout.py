"""The router wrapper `function_dropout`."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.routers import U, build_router, make_context, random_types_and_signatures, route

KEEP = 0.6
INNER = "inner: {use: kernel, truncation: 2}"


def sample_kept_functions(text: str, iteration: int = 0, number: int = 3000) -> torch.Tensor:
    """Returns which functions are kept, [number, U]; a function is kept or dropped for all elements of a sample."""
    router = build_router(text).train()
    type_BVT, signature_UT = random_types_and_signatures(batch=number)
    opened = route(router, type_BVT, signature_UT, make_context(iteration, batch=number)) > 0
    assert torch.equal(opened.any(dim=2), opened.all(dim=2))
    return opened.any(dim=2)


def test_functions_are_kept_with_probability_keep() -> None:
    share_U = sample_kept_functions(f"{{use: function_dropout, keep: {KEEP}, {INNER}}}").double().mean(dim=0)
    assert bool(((share_U - KEEP).abs() < 5 * (KEEP * (1 - KEEP) / 3000) ** 0.5).all())


@pytest.mark.parametrize("once", ["true", "false"])
def test_once_keeps_the_same_functions_in_all_iterations(once: str) -> None:
    text = f"{{use: function_dropout, keep: {KEEP}, once: {once}, {INNER}}}"
    assert torch.equal(sample_kept_functions(text, 0), sample_kept_functions(text, 5)) is (once == "true")


def test_evaluation_is_the_mean_of_training() -> None:
    router = build_router(f"{{use: function_dropout, keep: {KEEP}, {INNER}}}").eval()
    plain = build_router("{use: kernel, truncation: 2, bandwidth: 1}")
    types = random_types_and_signatures()
    actual = route(router, *types, make_context())
    torch.testing.assert_close(actual, KEEP * route(plain, *types, make_context()))
    assert actual.shape[1] == U


def test_class_attributes_are_those_of_the_inner_router() -> None:
    assert build_router("{use: function_dropout, inner: straight_through_kernel}").straight_through
    assert not build_router("{use: function_dropout, inner: unnormalised_kernel}").normalised
    assert build_router("function_dropout").normalised
