"""Attention whose weights are modulated by compatibility."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ni_framework.nn.attention import CLOSED_LOGIT, key_bias, modulated_attention

V, K, E = 5, 3, 2


def randn_attention(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_qkv() -> tuple[Tensor, Tensor, Tensor]:
    return randn_attention(V, K, seed=1), randn_attention(V, K, seed=2), randn_attention(V, E, seed=3)


def reference_attention(query: Tensor, key: Tensor, value: Tensor, c_V: Tensor, position_VV: Tensor) -> Tensor:
    """c_i c_j a_ij / sum_j c_i c_j a_ij of each row, with a separate softmax a; 0 where c_i is 0."""
    out = []
    for i in range(V):
        if not c_V[i]:
            out.append(torch.zeros(E, dtype=torch.float64))
            continue
        e = [math.exp(float(query[i] @ key[j] + position_VV[i, j]) / math.sqrt(K)) for j in range(V)]
        w = [float(c_V[i] * c_V[j]) * e[j] / sum(e) for j in range(V)]
        out.append(torch.stack([w[j] / sum(w) * value[j] for j in range(V)]).sum(dim=0))
    return torch.stack(out)


def test_weights_are_the_softmax_modulated_and_normalised_again() -> None:
    query, key, value = random_qkv()
    c_V = torch.tensor([0.2, 0.9, 0.0, 0.5, 0.01], dtype=torch.float64)
    position_VV = randn_attention(V, V, seed=4)
    found = modulated_attention(query, key, value, key_bias(c_V)[None, :], position_VV)
    expected = reference_attention(query, key, value, c_V, position_VV)
    # Rows with c_i = 0 are not used.
    used = c_V > 0
    torch.testing.assert_close(found[used], expected[used])
    assert bool(found.isfinite().all())


def test_position_is_scaled_with_the_logits() -> None:
    """With zero queries, the weights are the softmax of the positions over sqrt(K)."""
    _, key, value = random_qkv()
    position_VV = randn_attention(V, V, seed=4)
    found = modulated_attention(torch.zeros(V, K).double(), key, value, torch.zeros(V, V).double(), position_VV)
    torch.testing.assert_close(found, torch.softmax(position_VV / math.sqrt(K), dim=-1) @ value)


def test_a_key_with_multiplicity_is_that_many_copies() -> None:
    query, key, value = random_qkv()
    c_V = torch.tensor([0.2, 0.9, 0.3, 0.5, 0.01], dtype=torch.float64)
    multiplicity_V = torch.tensor([3.0, 1, 1, 2, 1], dtype=torch.float64)
    copied = torch.repeat_interleave(torch.arange(V), multiplicity_V.long())
    found = modulated_attention(query, key, value, key_bias(c_V, multiplicity_V)[None, :], None)
    expected = modulated_attention(query, key[copied], value[copied], key_bias(c_V[copied])[None, :], None)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
    without = modulated_attention(query, key, value, key_bias(c_V)[None, :], None)
    assert (found - without).abs().max() > 1e-2


def test_key_bias_is_log_and_closed() -> None:
    c = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    bias = key_bias(c)
    assert bias.tolist() == [0.0, math.log(0.5), CLOSED_LOGIT]
    (gradient,) = torch.autograd.grad(bias[:2].sum() + bias[2] * 1, c)
    assert gradient.tolist() == [1.0, 2.0, 0.0]


def test_closed_keys_have_no_weight_and_no_gradient() -> None:
    query, key, value = (tensor.requires_grad_() for tensor in random_qkv())
    c_V = torch.tensor([0.2, 0.9, 0.0, 0.5, 0.01], dtype=torch.float64)
    found = modulated_attention(query, key, value, key_bias(c_V)[None, :], None)
    key_gradient, value_gradient = torch.autograd.grad(found.square().sum(), [key, value])
    assert not key_gradient[2].any()
    assert not value_gradient[2].any()
    assert bool(value_gradient[[0, 1, 3, 4]].any(dim=-1).all())


def test_a_function_without_an_open_element_stays_finite() -> None:
    query, key, value = (tensor.requires_grad_() for tensor in random_qkv())
    c_V = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    found = modulated_attention(query, key, value, key_bias(c_V)[None, :], None)
    assert bool(found.isfinite().all())
    gradients = torch.autograd.grad(found.sum(), [query, key, value, c_V])
    for name, gradient in zip(("query", "key", "value", "compatibility"), gradients, strict=True):
        assert bool(gradient.isfinite().all()), f"the gradient of the {name} is not finite"


def test_gradients() -> None:
    query, key, value = (tensor.requires_grad_() for tensor in random_qkv())
    c_V = torch.tensor([0.2, 0.9, 0.3, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    position_VV = randn_attention(V, V, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k, v, c, r: modulated_attention(q, k, v, key_bias(c)[None, :], r),
        [query, key, value, c_V, position_VV],
    )
