"""Losses that keep a sparse router healthy: means over samples, each over the elements that are present in it."""

from __future__ import annotations

from torch import Tensor


def balance(probability_BUV: Tensor, opened_BUV: Tensor, present_BV: Tensor | None) -> Tensor:
    """U * sum_u f_u P_u, a scalar: 1 where functions are used evenly, up to U where one takes all; gradient through P alone.

    P_u is the mean probability of function u over a sample's elements, f_u the share of its open pairs that are u's; a pair of
    an element open to n functions counts 1 / n. Source: Fedus et al., "Switch Transformers", 2022, equations 4 to 6, there
    over a whole batch; here within each sample, so that the loss does not depend on how a batch is divided.
    """
    opened_BUV = opened_BUV.to(probability_BUV.dtype)
    used_BU = _mean(opened_BUV / opened_BUV.sum(dim=1, keepdim=True), present_BV)
    return probability_BUV.shape[1] * _over_samples((used_BU * _mean(probability_BUV, present_BV)).sum(dim=1))


def router_z(logit_BUV: Tensor, present_BV: Tensor | None) -> Tensor:
    """Mean of (log sum_u exp l_ui)^2, a scalar. Source: Zoph et al., "ST-MoE", 2022, equation 5."""
    return _over_samples(_mean(logit_BUV.logsumexp(dim=1).square(), present_BV))


def _over_samples(value_B: Tensor) -> Tensor:
    """The mean over samples; 0 where there is none."""
    return value_B.sum() / max(len(value_B), 1)


def _mean(value: Tensor, present_BV: Tensor | None) -> Tensor:
    """The mean over elements, the last dimension, of those that are present: [B, ..., V] -> [B, ...]; 0 if none is."""
    if present_BV is None:
        return value.mean(dim=-1)
    weight = present_BV.to(value.dtype).view(len(value), *[1] * (value.ndim - 2), -1)
    return (value * weight).sum(dim=-1) / weight.sum(dim=-1).clamp_min(1)
