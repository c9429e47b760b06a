"""`recipes/paper/digits.yaml` is the author's digits preset: equal numbers of parameters, and equal outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ni_framework import build_model, load_author_model, load_recipe, trace
from tests.helpers.author_state import SMALL_AUTHOR_CONFIG, random_author_state, with_changes

RECIPE = Path(__file__).parents[2] / "recipes" / "paper" / "digits.yaml"
AUTHOR_PRESET: dict[str, Any] = with_changes(
    SMALL_AUTHOR_CONFIG,
    {
        "image_input_channels": 3,
        "image_size": 32,
        "patch_size": 4,
        "num_classes_in_dataset": {"mnist": 10, "mnistm": 10, "svhn": 10},
        "use_shared_cls_tokens": True,
        "use_shared_prediction_head": True,
        "script.variable_features": 192,
        "script.num_iterations": 8,
        "script.type_features": 24,
        "script.num_types": 100,
        "types.depth": 2,
        "pod.num_functions": 5,
        "pod.code_features": 192,
        "pod.num_heads_in_loc": 4,
        "pod.num_features_per_loc_head": 32,
        "pod.detach_function_signatures": True,
        "kernel.truncation": 1.4202567871309753,
        "positions.share_positional_encoding_between_functions": False,
        "positions.function_head_mixing_mode": "sep_sum",
    },
)
SCRIPT, POD = "transformer.scripts.0.", "transformer.scripts.0.function_pod."
LINE, POSITIONS = f"{POD}loc_pods.0.", f"{POD}loc_pods.0.relative_positional_encoder."
# Beginnings of our names and of the author's; the rest of a name is the same.
NAMES = {
    "input.embedding.": "patch_to_embedding.",
    "scripts.0.type_inference.layers.0.": f"{SCRIPT}type_inference.layernorm.",
    "scripts.0.type_inference.layers.1.": f"{SCRIPT}type_inference.body.0.",
    "scripts.0.type_inference.layers.3.": f"{SCRIPT}type_inference.body.2.",
    "scripts.0.embedding.signature": f"{POD}function_signatures",
    "scripts.0.embedding.code": f"{POD}function_codes",
    "scripts.0.body.lines.0.attention_norm.": f"{LINE}pre_attention_layernorm.",
    "scripts.0.body.lines.0.mlp_norm.": f"{LINE}pre_mlp_layernorm.",
    "scripts.0.body.lines.0.positions.table_row": f"{POSITIONS}row_embeddings.weight",
    "scripts.0.body.lines.0.positions.table_column": f"{POSITIONS}col_embeddings.weight",
    "scripts.0.body.lines.0.positions.head_row": f"{POSITIONS}head_keys_row.weight",
    "scripts.0.body.lines.0.positions.head_column": f"{POSITIONS}head_keys_col.weight",
    "scripts.0.body.lines.0.positions.code_row": f"{POSITIONS}function_keys_row.weight",
    "scripts.0.body.lines.0.positions.code_column": f"{POSITIONS}function_keys_col.weight",
    "head.maps.0.": "shared_prediction_head.",
}
MAPS = {
    "query": "query_compiler",
    "key": "key_compiler",
    "value": "value_compiler",
    "out": "post_attention_fc",
    "mlp_in": "pointwise_mlp.0",
    "mlp_out": "pointwise_mlp.1",
}
TENSORS = {"weight": "native_weight", "bias": "native_bias", "code_weight": "scale.weight"}


def author_value(name: str, state: dict[str, Tensor]) -> Tensor:
    """The author's value of one of our parameters."""
    if name == "scripts.0.router.log_bandwidth":
        return state[f"{POD}kernel.bandwidth"].log()
    if name == "head.cls":
        return state["shared_cls_token"][0]
    *_, which, tensor = name.split(".")
    if ".maps." in name and which in MAPS:
        return state[f"{LINE}{MAPS[which]}.{TENSORS[tensor]}"]
    (ours,) = [start for start in NAMES if name.startswith(start)]
    return state[NAMES[ours] + name.removeprefix(ours)]


def test_preset_has_its_number_of_parameters() -> None:
    """628,251 with the frozen signatures: the author's 643,059 without those that are never used."""
    model = build_model(load_recipe(RECIPE), "meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 628_251
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["scripts.0.embedding.signature"]


def test_preset_is_the_authors_model() -> None:
    """With the author's weights, up to the eps of 1e-6 that only the author's attention has."""
    state = random_author_state(AUTHOR_PRESET)
    model = build_model(load_recipe(RECIPE)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(author_value(name, state))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    preset_trace, author_trace = trace(model, images), trace(load_author_model(AUTHOR_PRESET, state), images)
    for iteration, expected in enumerate(author_trace.compatibility[0]):
        # The author's model has three equal CLS elements, ours has one that counts as three.
        torch.testing.assert_close(preset_trace.compatibility[0][iteration], expected[:, :, 2:], atol=1e-4, rtol=0)
        assert torch.equal(preset_trace.compatibility[0][iteration] > 0, expected[:, :, 2:] > 0)
    for task, logits in author_trace.logits.items():
        torch.testing.assert_close(preset_trace.logits[task], logits, atol=1e-3, rtol=1e-3)
