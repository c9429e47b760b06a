"""The author's nested keyword arguments as frozen values, with the author's names and the author's defaults.

Arguments that change nothing in the author's model are accepted and not used. Values that would change it in a way that is
not implemented here are rejected.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal

from attrs import frozen

from ni_framework.author.keys import author_option, author_section


@frozen(kw_only=True)
class PositionsKwargs:
    """`relative_positional_encoder_kwargs`."""

    share_positional_encoding_between_functions: bool = author_option(bool, default=True)
    function_head_mixing_mode: Literal["dot", "sep_sum", "seq_sum"] = author_option(
        str, default="dot", supported=("dot", "sep_sum", "seq_sum")
    )


@frozen(kw_only=True)
class LineKwargs:
    """`loc_pod_kwargs`: a line of code."""

    residual_mode: str = author_option(str, default="gating", supported=("modulated_attn", "gating", "vanilla"))
    no_residual_after_attention: bool = author_option(bool, default=False, supported=(False,))
    trailing_activation: bool = author_option(bool, default=True)
    use_fc_after_attention: bool = author_option(bool, default=False)
    scale_attention_weights: bool = author_option(bool, default=False)
    relative_positional_encoder: bool | None = author_option(bool, NoneType, default=None)
    relative_positional_encoder_kwargs: PositionsKwargs = author_section(PositionsKwargs)
    mod_fc_class: str = author_option(str, default="ModFC", supported=("ModFC", "FC", "GModFC", "HyperFC"))
    mod_fc_kwargs: dict[str, Any] | None = author_option(dict, NoneType, default=None, supported=(None, {}))
    epsilon: float = author_option(float, default=1e-6)
    layernorm_before_positional_encoding: bool = author_option(
        bool, default=False
    )  # only used with an encoding at every layer
    image_size: int | None = author_option(int, NoneType, default=None)  # overwritten by the author's model


@frozen(kw_only=True)
class KernelKwargs:
    """`kernel_kwargs`."""

    truncation: float | None = author_option(float, NoneType, default=None)
    truncation_implementation: str = author_option(str, default="direct", supported=("direct", "masked"))
    straight_through: bool = author_option(bool, default=True)
    learnable_bandwidth: bool = author_option(bool, default=True)
    initial_bandwidth: float = author_option(float, default=1.0)  # not used: the state contains the bandwidth
    use_gumbel_along_functions: bool = author_option(bool, default=False, supported=(False,))
    gumbel_temperature: float = author_option(float, default=1.0)
    gumbel_hard: bool = author_option(bool, default=False)
    stochastic_kernel: bool = author_option(bool, default=False, supported=(False,))
    stochastic_sampling_temperature: float = author_option(float, default=1.0)
    stochastic_eval_behaviour: str = author_option(str, default="sample")


@frozen(kw_only=True)
class FunctionPodKwargs:
    """`function_pod_kwargs`: the functions of a script."""

    num_functions: int = author_option(int, minimum=1)
    code_features: int = author_option(int, minimum=1)
    num_heads_in_loc: int = author_option(int, minimum=1)
    num_features_per_loc_head: int = author_option(int, minimum=1)
    num_loc_pods: int = author_option(int, default=1, minimum=0)
    loc_pod_kwargs: LineKwargs = author_section(LineKwargs)
    kernel_kwargs: KernelKwargs = author_section(KernelKwargs)
    quantize_function_signature: bool = author_option(bool, default=True)
    quantize_variable_types: bool = author_option(bool, default=True)
    no_residual: bool = author_option(bool, default=False)
    residual_mode: str = author_option(str, default="gating", supported=("gating", "vanilla"))
    normalize_function_variable_affinities: bool = author_option(bool, default=False)
    epsilon: float = author_option(float, default=1e-6)
    consolidate_function_embeddings: bool = author_option(bool, default=False)
    function_embedding_features: int | None = author_option(int, NoneType, default=None, minimum=1)
    deconsolidation_mlp_capacity: int | None = author_option(int, NoneType, default=None, minimum=1)
    deconsolidation_mlp_depth: int = author_option(int, default=2, minimum=1)
    detach_function_signatures: bool = author_option(bool, default=False)
    detach_function_codes: bool = author_option(bool, default=False)
    detach_function_embeddings: bool = author_option(bool, default=False)
    detach_function_output_signatures: bool = author_option(bool, default=False)  # output signatures are not used
    num_temporary_variables: int = author_option(int, default=0)  # not used


@frozen(kw_only=True)
class TypeInferenceKwargs:
    """`type_inference_kwargs`."""

    capacity: int | None = author_option(int, NoneType, default=None, minimum=1)
    depth: int = author_option(int, default=2, minimum=1)
    use_layernorm: bool = author_option(bool, default=True)


@frozen(kw_only=True)
class FunctionDropoutKwargs:
    """`function_dropout_kwargs`."""

    keep_proba: float = author_option(float, default=1.0, supported=(1,))
    persist_mask: bool = author_option(bool, default=False)
    validation_behavior: str = author_option(str, default="scale_down")


@frozen(kw_only=True)
class ScriptKwargs:
    """`script_kwargs`, the same for all scripts."""

    variable_features: int = author_option(int, minimum=1)
    num_iterations: int = author_option(int, minimum=0)
    type_features: int = author_option(int, minimum=1)
    num_types: int = author_option(int, minimum=1)
    function_pod_kwargs: FunctionPodKwargs = author_section(FunctionPodKwargs, required=True)
    type_inference_kwargs: TypeInferenceKwargs = author_section(TypeInferenceKwargs)
    function_dropout_kwargs: FunctionDropoutKwargs = author_section(FunctionDropoutKwargs)
    no_residual: bool = author_option(bool, default=True)


@frozen(kw_only=True)
class ProgramKwargs:
    """`program_kwargs`."""

    num_scripts: int = author_option(int, minimum=1)
    script_kwargs: ScriptKwargs = author_section(ScriptKwargs, required=True)
