"""The author's line of code: attention and an MLP that depend on a code, with three kinds of residual connection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.author.kwargs import FunctionPodKwargs
from ni_framework.author.maps import MAPS, CodedMap
from ni_framework.author.positions import AuthorRelativePositions
from ni_framework.nn.layouts.dense import DensePairs

# Buffers in the author's model, which never change.
RESIDUAL_GAINS = {"post_attention_gain": 2.5, "post_mlp_gain": 2.5}


class AuthorLine(nn.Module):
    """A line of code, [R, D] -> [R, D] with rows [U, B, V, .]; U may be 1 in the input. Source: the author's `LOCPod`."""

    post_attention_gain: Tensor
    post_mlp_gain: Tensor

    def __init__(self, pod: FunctionPodKwargs, width: int, grid: int | None) -> None:
        super().__init__()
        line, code, heads = pod.loc_pod_kwargs, pod.code_features, pod.num_heads_in_loc
        # A head's key is as wide as the configured width of all heads together: a quirk of the author's code.
        key = heads * pod.num_features_per_loc_head

        def linear(out_features: int, bias: bool = True, active: bool = False) -> CodedMap:
            return MAPS[line.mod_fc_class](width, out_features, code, bias, active)

        self.line, self.heads = line, heads
        self.pre_attention_layernorm = nn.LayerNorm(width)
        self.pre_mlp_layernorm = nn.LayerNorm(width)
        self.query_compiler = linear(heads * key, bias=False)
        self.key_compiler = linear(heads * key, bias=False)
        self.value_compiler = linear(width)
        self.post_attention_fc = linear(width) if line.use_fc_after_attention else None
        self.pointwise_mlp = nn.ModuleList((linear(width, active=True), linear(width, active=line.trailing_activation)))
        if line.residual_mode == "gating":  # The other modes do not read the gains.
            for name in RESIDUAL_GAINS:
                self.register_buffer(name, torch.empty(()))
        self.relative_positional_encoder = None
        if line.relative_positional_encoder:
            assert grid is not None  # Checked by `read_config`.
            positions = line.relative_positional_encoder_kwargs
            self.relative_positional_encoder = AuthorRelativePositions(positions, grid, heads, key, code)

    def prepare(self, code_UC: Tensor, num_elements: int) -> dict[Any, Any]:
        """What depends only on the codes: the values of each map by its module, and the logits of positions by "position"."""
        prepared: dict[Any, Any] = {m: m.prepare(code_UC) for m in self.modules() if isinstance(m, CodedMap)}
        positions = self.relative_positional_encoder
        prepared["position"] = None if positions is None else positions(code_UC, num_elements)
        return prepared

    def forward(self, x_RD: Tensor, prepared: dict[Any, Any], pairs: DensePairs) -> Tensor:
        c_R1 = pairs.compatibility
        o_RD = self._attend(self.pre_attention_layernorm(x_RD), prepared, pairs)
        match self.line.residual_mode:
            case "gating":
                a_RD = (1 - c_R1) * x_RD + self.post_attention_gain * c_R1 * o_RD
            case "vanilla":
                a_RD = x_RD + o_RD
            case _:
                a_RD = x_RD + c_R1 * o_RD
        f_RD = self.pre_mlp_layernorm(a_RD)
        for linear in self.pointwise_mlp:
            f_RD = linear(f_RD, prepared[linear], pairs)
        if self.line.residual_mode == "gating":
            # The author's code multiplies by c twice.
            return (1 - c_R1) * a_RD + self.post_mlp_gain * c_R1**2 * f_RD
        return a_RD + c_R1 * f_RD

    def _attend(self, z_RD: Tensor, prepared: dict[Any, Any], pairs: DensePairs) -> Tensor:
        query_RHK, key_RHK, value_RHE = (
            linear(z_RD, prepared[linear], pairs).unflatten(-1, (self.heads, -1))
            for linear in (self.query_compiler, self.key_compiler, self.value_compiler)
        )
        scale = key_RHK.shape[-1] ** -0.5 if self.line.scale_attention_weights else 1.0
        o_RD = author_attention(
            query_RHK, key_RHK, value_RHE, pairs.compatibility, prepared["position"], scale, self.line.epsilon
        ).flatten(-2)
        linear = self.post_attention_fc
        return o_RD if linear is None else linear(o_RD, prepared[linear], pairs)


def author_attention(
    query_RHK: Tensor,
    key_RHK: Tensor,
    value_RHE: Tensor,
    compatibility_R1: Tensor,
    position_UHVV: Tensor | None,
    scale: float,
    eps: float,
) -> Tensor:
    """Attention among all elements, modulated by compatibility afterwards.

    w_ij = c_i c_j a_ij / (eps + sum_j c_i c_j a_ij) with a = softmax_j(scale (q_i . k_j + r_ij)). Unlike in
    `nn.attention`, c_i does not cancel, because of the eps, and closed elements take part in the softmax.

    Args:
        query_RHK: [U, B, V, H, K].
        key_RHK: [U, B, V, H, K].
        value_RHE: [U, B, V, H, E].
        compatibility_R1: c, [U, B, V, 1].
        position_UHVV: r, logits of relative positions, [U or 1, H, V, V].
        scale: Factor of the logits.
        eps: Added to the normalisation.

    Returns:
        [U, B, V, H, E].
    """
    query, key, value = (rows.transpose(2, 3) for rows in (query_RHK, key_RHK, value_RHE))  # [U, B, H, V, .]
    logits = query @ key.transpose(-1, -2)
    if position_UHVV is not None:
        logits = logits + position_UHVV.unsqueeze(1)
    c = compatibility_R1.unsqueeze(2)  # [U, B, 1, V, 1]
    weight = c * c.transpose(-1, -2) * torch.softmax(scale * logits, dim=-1)
    weight = weight / (weight.sum(dim=-1, keepdim=True) + eps)
    return (weight @ value).transpose(2, 3)
