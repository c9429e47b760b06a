"""Small configs and random states of the author's model, with the names and shapes that its code gives them."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor

# All sizes differ: 2 heads, 3 functions, 4 samples, 5 types, 6 elements, 7 code, 8 key, 9 and 11 classes, 10 width.
SMALL_AUTHOR_CONFIG: dict[str, Any] = {
    "image_input_channels": 2,
    "image_size": 6,
    "patch_size": 3,
    "layerwise_positional_encoding": False,
    "num_classes_in_dataset": {"one": 9, "two": 11},
    "program_kwargs": {
        "num_scripts": 1,
        "script_kwargs": {
            "variable_features": 10,
            "num_iterations": 1,
            "type_features": 5,
            "num_types": 12,
            "type_inference_kwargs": {},
            "function_pod_kwargs": {
                "num_functions": 3,
                "code_features": 7,
                "num_heads_in_loc": 2,
                "num_features_per_loc_head": 4,
                "quantize_function_signature": False,
                "quantize_variable_types": False,
                "no_residual": True,
                "normalize_function_variable_affinities": True,
                "kernel_kwargs": {"truncation": 0.95},
                "loc_pod_kwargs": {
                    "relative_positional_encoder": True,
                    "relative_positional_encoder_kwargs": {},
                    "residual_mode": "modulated_attn",
                    "scale_attention_weights": True,
                    "trailing_activation": False,
                    "use_fc_after_attention": True,
                },
            },
        },
    },
}
_SECTIONS = {
    "": (),
    "program": ("program_kwargs",),
    "script": ("program_kwargs", "script_kwargs"),
    "types": ("program_kwargs", "script_kwargs", "type_inference_kwargs"),
    "pod": ("program_kwargs", "script_kwargs", "function_pod_kwargs"),
    "kernel": ("program_kwargs", "script_kwargs", "function_pod_kwargs", "kernel_kwargs"),
    "line": ("program_kwargs", "script_kwargs", "function_pod_kwargs", "loc_pod_kwargs"),
    "positions": (
        *("program_kwargs", "script_kwargs", "function_pod_kwargs", "loc_pod_kwargs"),
        "relative_positional_encoder_kwargs",
    ),
}
REMOVED = object()


def with_changes(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy in which each "section.key" of `changes` has another value, or is absent (`REMOVED`)."""
    config = copy.deepcopy(config)
    for place, value in changes.items():
        section, _, name = place.rpartition(".")
        mapping = config
        for part in _SECTIONS[section]:
            mapping = mapping[part]
        if value is REMOVED:
            del mapping[name]
        else:
            mapping[name] = value
    return config


def random_author_state(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Returns random float64 tensors of the author's state dict, including unused and duplicate ones."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in _shapes(config).items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("bandwidth"):
            value = 0.6 + 0.1 * value.abs()
        elif len(shape) > 1 and not name.endswith(("signatures", "codes", "codebook", "embeddings", "token")):
            value = value * shape[-1] ** -0.5
        state[name] = value
    for name in list(state):
        if ".type_inference." in name:
            state[name.replace(".type_inference.", ".function_pod.type_inference.")] = state[name].clone()
    return state


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    script = config["program_kwargs"]["script_kwargs"]
    width, tasks = script["variable_features"], config["num_classes_in_dataset"]
    tasks = {"default": tasks} if isinstance(tasks, int) else tasks
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    def head(name: str, classes: int) -> None:
        norm(f"{name}.0", width)
        linear(f"{name}.1", width, classes)

    channels = config.get("image_input_channels", 3)
    if config.get("input_type", "patches") == "patches":
        side = config["image_size"] // config["patch_size"]
        linear("patch_to_embedding", channels * config["patch_size"] ** 2, width)
        shapes["pos_embedding"] = (1, side**2, width)
    else:
        side = 0
        linear("entity_to_embedding", channels, width)
        shapes["pos_embedding"] = (1, config["num_entities"], width)
    if config.get("use_shared_cls_tokens"):
        shapes["shared_cls_token"] = (1, 1, width)
    else:
        shapes |= {f"cls_token.{task}": (1, 1, width) for task in tasks}
    if config.get("use_shared_prediction_head"):
        head("shared_prediction_head", next(iter(tasks.values())))
    else:
        for task, classes in tasks.items():
            head(f"mlp_prediction_head.{task}", classes)
    for number in range(config["program_kwargs"]["num_scripts"]):
        _script_shapes(script, f"transformer.scripts.{number}.", side, shapes, linear, norm)
    return shapes


def _script_shapes(
    script: dict[str, Any], name: str, side: int, shapes: dict[str, Any], linear: Any, norm: Any
) -> None:
    pod, width, types = script["function_pod_kwargs"], script["variable_features"], script["type_features"]
    kwargs = script.get("type_inference_kwargs") or {}
    depth, hidden = kwargs.get("depth", 2), kwargs.get("capacity") or width
    if kwargs.get("use_layernorm", True):
        norm(f"{name}type_inference.layernorm", width)

    def mlp(mlp_name: str, sizes: list[int]) -> None:
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            linear(mlp_name if len(sizes) == 2 else f"{mlp_name}.{2 * layer}", inputs, outputs)

    mlp(f"{name}type_inference.body", [width, *[hidden] * (depth - 1), types])
    shapes[f"{name}type_inference.quantizer.codebook"] = (script["num_types"], types)
    functions, code = pod["num_functions"], pod["code_features"]
    pod_name = f"{name}function_pod."
    if pod.get("consolidate_function_embeddings"):
        wide = pod.get("function_embedding_features") or width
        hidden, depth = pod.get("deconsolidation_mlp_capacity") or wide, pod.get("deconsolidation_mlp_depth", 2)
        shapes[f"{pod_name}function_embeddings"] = (functions, wide)
        for what, size in (("signatures", types), ("output_signatures", types), ("codes", code)):
            mlp(f"{pod_name}function_embeddings_to_{what}", [wide, *[hidden] * (depth - 1), size])
    else:
        shapes[f"{pod_name}function_signatures"] = shapes[f"{pod_name}function_output_signatures"] = (functions, types)
        shapes[f"{pod_name}function_codes"] = (functions, code)
    shapes[f"{pod_name}kernel.bandwidth"] = ()
    line = pod.get("loc_pod_kwargs") or {}
    heads = pod["num_heads_in_loc"]
    key = heads * pod["num_features_per_loc_head"]
    for number in range(pod.get("num_loc_pods", 1)):
        loc = f"{pod_name}loc_pods.{number}."
        shapes[f"{loc}post_attention_gain"] = shapes[f"{loc}post_mlp_gain"] = ()
        norm(f"{loc}pre_attention_layernorm", width)
        norm(f"{loc}pre_mlp_layernorm", width)
        maps = {"query_compiler": heads * key, "key_compiler": heads * key, "value_compiler": width}
        maps |= {"post_attention_fc": width} if line.get("use_fc_after_attention") else {}
        for which, size in (maps | {"pointwise_mlp.0": width, "pointwise_mlp.1": width}).items():
            bias = which not in ("query_compiler", "key_compiler")
            _map_shapes(
                line.get("mod_fc_class", "ModFC"), f"{loc}{which}", width, size, code, bias, shapes, linear, norm
            )
        if line.get("relative_positional_encoder"):
            encoder = f"{loc}relative_positional_encoder."
            shapes[f"{encoder}relative_indices"] = (side**2,)
            kwargs = line.get("relative_positional_encoder_kwargs") or {}
            sep_sum = kwargs.get("function_head_mixing_mode", "dot") == "sep_sum"
            for axis in ("row", "col"):
                shapes[f"{encoder}{axis}_embeddings.weight"] = (2 * side - 1, key)
                linear(f"{encoder}head_keys_{axis}", key, heads, False)
                if not kwargs.get("share_positional_encoding_between_functions", True):
                    linear(f"{encoder}function_keys_{axis}", code, heads if sep_sum else key, False)


def _map_shapes(
    kind: str,
    name: str,
    inputs: int,
    outputs: int,
    code: int,
    bias: bool,
    shapes: dict[str, Any],
    linear: Any,
    norm: Any,
) -> None:
    if kind == "ModFC":
        shapes[f"{name}.native_weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.native_bias"] = (outputs,)
        linear(f"{name}.scale", code, inputs, False)
    elif kind == "FC":
        linear(f"{name}.lin", inputs, outputs, bias)
    elif kind == "GModFC":
        linear(f"{name}.main_lin", inputs, outputs, bias)
        linear(f"{name}.aux_lin", code, outputs, bias)
    else:
        count = outputs * inputs + (outputs if bias else 0)
        shapes[f"{name}.slow_params"], shapes[f"{name}.mixing_alpha"] = (count,), ()
        norm(f"{name}.context_pre_layernorm", code)
        linear(f"{name}.hyper_net.0", code, inputs)
        linear(f"{name}.hyper_net.2", inputs, count, False)
