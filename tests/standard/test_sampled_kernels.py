"""Routers that draw: what they draw, how often, and from what."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.routers import B, U, V, compatibility, context, router_of, types_and_signatures

KERNEL = router_of("{use: kernel, truncation: 0.6, bandwidth: 1}")
DRAWS = 4000


@pytest.fixture
def mean_BUV() -> torch.Tensor:
    """The compatibilities of the kernel without draws."""
    return compatibility(KERNEL, *types_and_signatures(), context()).detach()


def drawn(text: str, number: int = DRAWS) -> torch.Tensor:
    """Many draws in training for one sample's types, [number, U, V]."""
    router = router_of(text)
    router.train()
    type_BVT, signature_UT = types_and_signatures()
    return compatibility(router, type_BVT[:1].expand(number, -1, -1), signature_UT, context(batch=number)).detach()


def test_hard_gumbel_takes_each_function_as_often_as_its_compatibility() -> None:
    """One function an element where any is open, none elsewhere; frequencies within five standard errors."""
    options = "truncation: 0.9, bandwidth: 0.5"  # three and four functions open for one element, with unequal shares
    p_UV = compatibility(router_of(f"{{use: kernel, {options}}}"), *types_and_signatures(), context()).detach()[0]
    assert int((p_UV > 0).sum(dim=0).max()) >= 3
    draws = drawn(f"{{use: gumbel_kernel, {options}, hard: true}}")
    taken_V = (p_UV > 0).any(dim=0)
    assert torch.equal((draws > 0).sum(dim=1), taken_V.long().expand(DRAWS, -1))
    assert bool(((draws == 0) | (draws == 1)).all())
    error_UV = (p_UV * (1 - p_UV) / DRAWS).sqrt()
    assert bool(((draws.mean(dim=0) - p_UV).abs() <= 5 * error_UV + 1e-4).all())


def test_elements_that_no_function_takes_are_drawn_by_none() -> None:
    taken_V = (compatibility(KERNEL, *types_and_signatures(), context()).detach()[0] > 0).any(dim=0)
    assert 0 < taken_V.sum() < V
    for use in ("gumbel_kernel", "stochastic_kernel"):
        for more in ("", ", hard: true") if use == "gumbel_kernel" else ("",):
            opened = drawn(f"{{use: {use}, truncation: 0.6, bandwidth: 1{more}}}", 50) > 0
            assert torch.equal(opened.any(dim=1), taken_V.expand(50, -1))


def test_soft_gumbel_is_a_distribution_over_open_functions(mean_BUV: torch.Tensor) -> None:
    draws = drawn("{use: gumbel_kernel, truncation: 0.6, temperature: 0.7}", 50)
    torch.testing.assert_close(draws.sum(dim=1), (mean_BUV[0] > 0).any(dim=0).double().expand(50, -1))
    assert torch.equal(draws > 0, (mean_BUV[0] > 0).expand(50, -1, -1))
    assert draws.std(dim=0).max() > 0.1
    colder = drawn("{use: gumbel_kernel, truncation: 0.6, temperature: 0.05}", 50)
    assert colder.max(dim=1).values.mean() > draws.max(dim=1).values.mean()


def test_hard_gumbel_has_the_gradient_of_the_soft_draw() -> None:
    type_BVT, signature_UT = types_and_signatures()
    weight = torch.randn(B, U, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = []
    for hard in ("true", "false"):
        router = router_of(f"{{use: gumbel_kernel, truncation: 0.6, hard: {hard}}}").train()
        seen = type_BVT.clone().requires_grad_()
        (compatibility(router, seen, signature_UT, context()) * weight).sum().backward()
        gradients.append(seen.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    assert gradients[0].any()


def test_stochastic_opens_each_pair_with_the_probability_of_its_kernel() -> None:
    """Cold draws are open or closed; how often is open agrees with k within five standard errors."""
    unnormalised = router_of("{use: unnormalised_kernel, truncation: 0.6}")
    k_UV = compatibility(unnormalised, *types_and_signatures(), context()).detach()[0]
    draws = drawn("{use: stochastic_kernel, truncation: 0.6, temperature: 1.0e-3}")
    opened = (draws > 1e-3).double()
    error_UV = (k_UV * (1 - k_UV) / DRAWS).sqrt()
    assert bool(((opened.mean(dim=0) - k_UV).abs() <= 5 * error_UV + 2e-3).all())
    warm = drawn("{use: stochastic_kernel, truncation: 0.6, temperature: 1.0}", 50)
    assert torch.equal(warm > 0, (k_UV > 0).expand(50, -1, -1))  # closed stays closed, exactly
    assert float(draws.sum(dim=1).max()) <= 1 + 1e-9


@pytest.mark.parametrize("use", ["gumbel_kernel", "stochastic_kernel"])
def test_evaluation(use: str, mean_BUV: torch.Tensor) -> None:
    """The mean by default; draws, where asked for, that are the same each time."""
    types = types_and_signatures()
    router = router_of(f"{{use: {use}, truncation: 0.6}}").eval()
    torch.testing.assert_close(compatibility(router, *types, context()), mean_BUV)
    sampling = router_of(f"{{use: {use}, truncation: 0.6, evaluation: sample}}").eval()
    first, again = (compatibility(sampling, *types, context()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, mean_BUV)


@pytest.mark.parametrize(
    "text",
    [
        "{use: gumbel_kernel, truncation: 0.6}",
        "{use: stochastic_kernel, truncation: 0.6}",
        "{use: function_dropout, keep: 0.5, inner: {use: kernel, truncation: 2}}",
    ],
)
def test_draws_depend_on_sample_iteration_and_script_alone(text: str) -> None:
    """Not on how a batch is divided, nor on the global generator; other places draw other numbers."""
    router = router_of(text).train()
    type_BVT, signature_UT = types_and_signatures()
    whole = compatibility(router, type_BVT, signature_UT, context())
    torch.manual_seed(7)
    at = context()
    second = at._replace(noise=type(at.noise)(at.noise.key_B[1:2], 0, 0))  # pyright: ignore
    torch.testing.assert_close(
        compatibility(router, type_BVT[1:2], signature_UT, second), whole[1:2], rtol=1e-13, atol=0
    )
    for other in (context(iteration=1), context(script=1), context(seed=1)):
        assert not torch.equal(compatibility(router, type_BVT, signature_UT, other), whole)


class Ends:
    """Noise at both ends of what can be drawn."""

    def uniform(self, name: str, *shape: int, once: bool = False) -> torch.Tensor:
        ends = torch.tensor([0.0, 1 - 2.0**-24])
        return ends.repeat(B * shape[0] * shape[1])[: B * shape[0] * shape[1]].view(B, *shape)


@pytest.mark.parametrize("use", ["gumbel_kernel", "stochastic_kernel"])
@pytest.mark.parametrize("bandwidth", [1, 0.01])
def test_the_ends_of_the_noise_are_finite(use: str, bandwidth: float) -> None:
    """In fp32, where 1 - 2^-24 plus a little is 1: forward and gradients."""
    router = router_of(f"{{use: {use}, truncation: 2, bandwidth: {bandwidth}}}").float().train()
    type_BVT, signature_UT = (vector.float().requires_grad_() for vector in types_and_signatures())
    found = compatibility(router, type_BVT, signature_UT, context()._replace(noise=Ends()))
    weight = torch.arange(found.numel()).view_as(found) / found.numel()
    gradients = torch.autograd.grad((found * weight).sum(), [type_BVT, signature_UT, router.log_bandwidth])  # pyright: ignore
    assert bool(found.isfinite().all())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_noise_of_another_name_is_other_noise() -> None:
    noise = context().noise
    assert torch.equal(noise.uniform("a", 5), noise.uniform("a", 5))
    assert not torch.equal(noise.uniform("a", 5), noise.uniform("b", 5))
