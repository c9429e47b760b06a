"""The author's nested keyword arguments as frozen values, with the author's names and the author's defaults.

Arguments that change nothing in the author's model are known and read by nobody; those that change it in a way that is
not offered here are refused by their value.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal

from attrs import frozen

from ni_framework.author.keys import key, section


@frozen(kw_only=True)
class Positions:
    """`relative_positional_encoder_kwargs`."""

    share_positional_encoding_between_functions: bool = key(bool, default=True)
    function_head_mixing_mode: Literal["dot", "sep_sum", "seq_sum"] = key(
        str, default="dot", supported=("dot", "sep_sum", "seq_sum")
    )


@frozen(kw_only=True)
class Line:
    """`loc_pod_kwargs`: a line of code."""

    residual_mode: str = key(str, default="gating", supported=("modulated_attn", "gating", "vanilla"))
    no_residual_after_attention: bool = key(bool, default=False, supported=(False,))
    trailing_activation: bool = key(bool, default=True)
    use_fc_after_attention: bool = key(bool, default=False)
    scale_attention_weights: bool = key(bool, default=False)
    relative_positional_encoder: bool | None = key(bool, NoneType, default=None)
    relative_positional_encoder_kwargs: Positions = section(Positions)
    mod_fc_class: str = key(str, default="ModFC", supported=("ModFC", "FC", "GModFC", "HyperFC"))
    mod_fc_kwargs: dict[str, Any] | None = key(dict, NoneType, default=None, supported=(None, {}))
    epsilon: float = key(float, default=1e-6)
    layernorm_before_positional_encoding: bool = key(bool, default=False)  # acts at every layer only
    image_size: int | None = key(int, NoneType, default=None)  # overwritten by the author's model


@frozen(kw_only=True)
class Kernel:
    """`kernel_kwargs`."""

    truncation: float | None = key(float, NoneType, default=None)
    truncation_implementation: str = key(str, default="direct", supported=("direct", "masked"))
    straight_through: bool = key(bool, default=True)
    learnable_bandwidth: bool = key(bool, default=True)
    initial_bandwidth: float = key(float, default=1.0)  # the state holds the bandwidth
    use_gumbel_along_functions: bool = key(bool, default=False, supported=(False,))
    gumbel_temperature: float = key(float, default=1.0)
    gumbel_hard: bool = key(bool, default=False)
    stochastic_kernel: bool = key(bool, default=False, supported=(False,))
    stochastic_sampling_temperature: float = key(float, default=1.0)
    stochastic_eval_behaviour: str = key(str, default="sample")


@frozen(kw_only=True)
class Pod:
    """`function_pod_kwargs`: the functions of a script."""

    num_functions: int = key(int, least=1)
    code_features: int = key(int, least=1)
    num_heads_in_loc: int = key(int, least=1)
    num_features_per_loc_head: int = key(int, least=1)
    num_loc_pods: int = key(int, default=1, least=0)
    loc_pod_kwargs: Line = section(Line)
    kernel_kwargs: Kernel = section(Kernel)
    quantize_function_signature: bool = key(bool, default=True)
    quantize_variable_types: bool = key(bool, default=True)
    no_residual: bool = key(bool, default=False)
    residual_mode: str = key(str, default="gating", supported=("gating", "vanilla"))
    normalize_function_variable_affinities: bool = key(bool, default=False)
    epsilon: float = key(float, default=1e-6)
    consolidate_function_embeddings: bool = key(bool, default=False)
    function_embedding_features: int | None = key(int, NoneType, default=None, least=1)
    deconsolidation_mlp_capacity: int | None = key(int, NoneType, default=None, least=1)
    deconsolidation_mlp_depth: int = key(int, default=2, least=1)
    detach_function_signatures: bool = key(bool, default=False)
    detach_function_codes: bool = key(bool, default=False)
    detach_function_embeddings: bool = key(bool, default=False)
    detach_function_output_signatures: bool = key(bool, default=False)  # output signatures act on nothing
    num_temporary_variables: int = key(int, default=0)  # act on nothing


@frozen(kw_only=True)
class Types:
    """`type_inference_kwargs`."""

    capacity: int | None = key(int, NoneType, default=None, least=1)
    depth: int = key(int, default=2, least=1)
    use_layernorm: bool = key(bool, default=True)


@frozen(kw_only=True)
class Dropout:
    """`function_dropout_kwargs`."""

    keep_proba: float = key(float, default=1.0, supported=(1,))
    persist_mask: bool = key(bool, default=False)
    validation_behavior: str = key(str, default="scale_down")


@frozen(kw_only=True)
class Script:
    """`script_kwargs`, the same for all scripts."""

    variable_features: int = key(int, least=1)
    num_iterations: int = key(int, least=0)
    type_features: int = key(int, least=1)
    num_types: int = key(int, least=1)
    function_pod_kwargs: Pod = section(Pod, needed=True)
    type_inference_kwargs: Types = section(Types)
    function_dropout_kwargs: Dropout = section(Dropout)
    no_residual: bool = key(bool, default=True)


@frozen(kw_only=True)
class Program:
    """`program_kwargs`."""

    num_scripts: int = key(int, least=1)
    script_kwargs: Script = section(Script, needed=True)
