"""Kernel routers with random draws: distributions, evaluation, and the source of randomness."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.routers import B, U, V, build_router, make_context, random_types_and_signatures, route

KERNEL = build_router("{use: kernel, truncation: 0.6, bandwidth: 1}")
DRAWS = 4000


@pytest.fixture
def mean_BUV() -> torch.Tensor:
    """Returns the compatibilities of the kernel without draws."""
    return route(KERNEL, *random_types_and_signatures(), make_context()).detach()


def draw_compatibilities(text: str, number: int = DRAWS) -> torch.Tensor:
    """Returns many draws in training for the types of one sample, [number, U, V]."""
    router = build_router(text)
    router.train()
    type_BVT, signature_UT = random_types_and_signatures()
    return route(router, type_BVT[:1].expand(number, -1, -1), signature_UT, make_context(batch=number)).detach()


def test_hard_gumbel_draws_functions_with_their_compatibilities() -> None:
    """One function takes an element if any is open, none otherwise; frequencies agree within five standard errors."""
    # With these, three or four functions with different compatibilities are open for some elements.
    options = "truncation: 0.9, bandwidth: 0.5"
    p_UV = route(build_router(f"{{use: kernel, {options}}}"), *random_types_and_signatures(), make_context()).detach()[
        0
    ]
    assert int((p_UV > 0).sum(dim=0).max()) >= 3
    draws = draw_compatibilities(f"{{use: gumbel_kernel, {options}, hard: true}}")
    taken_V = (p_UV > 0).any(dim=0)
    assert torch.equal((draws > 0).sum(dim=1), taken_V.long().expand(DRAWS, -1))
    assert bool(((draws == 0) | (draws == 1)).all())
    error_UV = (p_UV * (1 - p_UV) / DRAWS).sqrt()
    assert bool(((draws.mean(dim=0) - p_UV).abs() <= 5 * error_UV + 1e-4).all())


def test_elements_without_open_functions_stay_without() -> None:
    taken_V = (route(KERNEL, *random_types_and_signatures(), make_context()).detach()[0] > 0).any(dim=0)
    assert 0 < taken_V.sum() < V
    for use in ("gumbel_kernel", "stochastic_kernel"):
        for more in ("", ", hard: true") if use == "gumbel_kernel" else ("",):
            opened = draw_compatibilities(f"{{use: {use}, truncation: 0.6, bandwidth: 1{more}}}", 50) > 0
            assert torch.equal(opened.any(dim=1), taken_V.expand(50, -1))


def test_soft_gumbel_is_a_distribution_over_open_functions(mean_BUV: torch.Tensor) -> None:
    draws = draw_compatibilities("{use: gumbel_kernel, truncation: 0.6, temperature: 0.7}", 50)
    torch.testing.assert_close(draws.sum(dim=1), (mean_BUV[0] > 0).any(dim=0).double().expand(50, -1))
    assert torch.equal(draws > 0, (mean_BUV[0] > 0).expand(50, -1, -1))
    assert draws.std(dim=0).max() > 0.1
    colder = draw_compatibilities("{use: gumbel_kernel, truncation: 0.6, temperature: 0.05}", 50)
    assert colder.max(dim=1).values.mean() > draws.max(dim=1).values.mean()


def test_hard_gumbel_has_the_gradient_of_the_soft_draw() -> None:
    type_BVT, signature_UT = random_types_and_signatures()
    weight = torch.randn(B, U, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = []
    for hard in ("true", "false"):
        router = build_router(f"{{use: gumbel_kernel, truncation: 0.6, hard: {hard}}}").train()
        leaf_BVT = type_BVT.clone().requires_grad_()
        (route(router, leaf_BVT, signature_UT, make_context()) * weight).sum().backward()
        gradients.append(leaf_BVT.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    assert gradients[0].any()


def test_stochastic_opens_pairs_with_their_kernel_values() -> None:
    """At a low temperature draws are open or closed; frequencies agree with k within five standard errors."""
    unnormalised = build_router("{use: unnormalised_kernel, truncation: 0.6}")
    k_UV = route(unnormalised, *random_types_and_signatures(), make_context()).detach()[0]
    draws = draw_compatibilities("{use: stochastic_kernel, truncation: 0.6, temperature: 1.0e-3}")
    opened = (draws > 1e-3).double()
    error_UV = (k_UV * (1 - k_UV) / DRAWS).sqrt()
    assert bool(((opened.mean(dim=0) - k_UV).abs() <= 5 * error_UV + 2e-3).all())
    warm = draw_compatibilities("{use: stochastic_kernel, truncation: 0.6, temperature: 1.0}", 50)
    assert torch.equal(warm > 0, (k_UV > 0).expand(50, -1, -1)), "closed pairs stay closed"
    assert float(draws.sum(dim=1).max()) <= 1 + 1e-9


@pytest.mark.parametrize("use", ["gumbel_kernel", "stochastic_kernel"])
def test_evaluation(use: str, mean_BUV: torch.Tensor) -> None:
    """Evaluation uses the mean by default, and with `evaluation: sample` draws that are always the same."""
    types = random_types_and_signatures()
    router = build_router(f"{{use: {use}, truncation: 0.6}}").eval()
    torch.testing.assert_close(route(router, *types, make_context()), mean_BUV)
    sampling = build_router(f"{{use: {use}, truncation: 0.6, evaluation: sample}}").eval()
    first, again = (route(sampling, *types, make_context()) for _ in range(2))
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
def test_draws_depend_on_seed_sample_iteration_and_script_only(text: str) -> None:
    """They do not depend on the batch or on the global generator."""
    router = build_router(text).train()
    type_BVT, signature_UT = random_types_and_signatures()
    whole = route(router, type_BVT, signature_UT, make_context())
    torch.manual_seed(7)
    at = make_context()
    second = at._replace(noise=type(at.noise)(at.noise.key_B[1:2], 0, 0))  # pyright: ignore
    torch.testing.assert_close(route(router, type_BVT[1:2], signature_UT, second), whole[1:2], rtol=1e-13, atol=0)
    for other in (make_context(iteration=1), make_context(script=1), make_context(seed=1)):
        assert not torch.equal(route(router, type_BVT, signature_UT, other), whole)


class ExtremeNoise:
    """Noise with the smallest and the largest number that can be drawn."""

    def uniform(self, name: str, *shape: int, per_forward: bool = False) -> torch.Tensor:
        ends = torch.tensor([0.0, 1 - 2.0**-24])
        return ends.repeat(B * shape[0] * shape[1])[: B * shape[0] * shape[1]].view(B, *shape)


@pytest.mark.parametrize("use", ["gumbel_kernel", "stochastic_kernel"])
@pytest.mark.parametrize("bandwidth", [1, 0.01])
def test_extreme_noise_gives_finite_results(use: str, bandwidth: float) -> None:
    """Output and gradients are finite in fp32, in which 1 - 2^-24 plus a small number is rounded to 1."""
    router = build_router(f"{{use: {use}, truncation: 2, bandwidth: {bandwidth}}}").float().train()
    type_BVT, signature_UT = (vector.float().requires_grad_() for vector in random_types_and_signatures())
    actual = route(router, type_BVT, signature_UT, make_context()._replace(noise=ExtremeNoise()))
    weight = torch.arange(actual.numel()).view_as(actual) / actual.numel()
    gradients = torch.autograd.grad((actual * weight).sum(), [type_BVT, signature_UT, router.log_bandwidth])  # pyright: ignore
    assert bool(actual.isfinite().all())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_noise_depends_on_its_name() -> None:
    noise = make_context().noise
    assert torch.equal(noise.uniform("a", 5), noise.uniform("a", 5))
    assert not torch.equal(noise.uniform("a", 5), noise.uniform("b", 5))
