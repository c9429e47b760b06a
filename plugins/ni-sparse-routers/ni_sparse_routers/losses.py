"""Auxiliary losses of sparse routers: means over samples of values within each sample, over its present elements."""

from __future__ import annotations

from torch import Tensor


def balance_loss(probability_BUV: Tensor, open_BUV: Tensor, present_BV: Tensor | None) -> Tensor:
    """U * sum_u f_u P_u, a scalar: 1 for even use of the functions, up to U if one function takes all; gradient through P alone.

    P_u is the mean probability of function u over the elements of a sample. f_u is the share of the sample's open pairs that
    belong to u, where a pair counts 1 / n if the element is open to n functions. Source: Fedus et al., "Switch Transformers",
    2022, equations 4 to 6, over a whole batch; here within each sample, so that the loss of a batch is the mean over its
    micro-batches.

    Args:
        probability_BUV: The softmax of the logits over all functions.
        open_BUV: Which pairs are open.
        present_BV: False where an element is masked; None if no element is.
    """
    open_BUV = open_BUV.to(probability_BUV.dtype)
    usage_BU = _mean_over_elements(open_BUV / open_BUV.sum(dim=1, keepdim=True), present_BV)
    return probability_BUV.shape[1] * _mean_over_samples(
        (usage_BU * _mean_over_elements(probability_BUV, present_BV)).sum(dim=1)
    )


def router_z_loss(logit_BUV: Tensor, present_BV: Tensor | None) -> Tensor:
    """Returns the mean of (log sum_u exp l_ui)^2, a scalar. Source: Zoph et al., "ST-MoE", 2022, equation 5."""
    return _mean_over_samples(_mean_over_elements(logit_BUV.logsumexp(dim=1).square(), present_BV))


def _mean_over_samples(value_B: Tensor) -> Tensor:
    """Returns the mean over samples; 0 for an empty batch."""
    return value_B.sum() / max(len(value_B), 1)


def _mean_over_elements(value: Tensor, present_BV: Tensor | None) -> Tensor:
    """Returns the mean over present elements, the last dimension: [B, ..., V] -> [B, ...]; 0 if no element is present."""
    if present_BV is None:
        return value.mean(dim=-1)
    weight = present_BV.to(value.dtype).view(len(value), *[1] * (value.ndim - 2), -1)
    return (value * weight).sum(dim=-1) / weight.sum(dim=-1).clamp_min(1)
