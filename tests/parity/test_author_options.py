"""Every option of the author's model compared with a slow computation from the equations: outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ni_framework
from ni_framework.author import kwargs as author_kwargs
from ni_framework.author import load_author_model
from ni_framework.author.routing import AuthorKernel
from tests.helpers.author_reference import run_author_reference
from tests.helpers.author_state import REMOVED, SMALL_AUTHOR_CONFIG, random_author_state, with_changes

OPTION_CASES: dict[str, dict[str, Any]] = {
    "small": {},
    "three_iterations": {"script.num_iterations": 3},
    "positions_shared": {"positions.share_positional_encoding_between_functions": True},
    "positions_dot": {"positions.share_positional_encoding_between_functions": False},
    **{
        f"positions_{mode}": {
            "positions.share_positional_encoding_between_functions": False,
            "positions.function_head_mixing_mode": mode,
        }
        for mode in ("sep_sum", "seq_sum")
    },
    "positions_kwargs_absent": {"line.relative_positional_encoder_kwargs": REMOVED},
    "positions_absent": {"line.relative_positional_encoder": REMOVED},
    "positions_null": {"line.relative_positional_encoder": None},
    "unscaled": {"line.scale_attention_weights": False},
    "no_fc_after_attention": {"line.use_fc_after_attention": False},
    "trailing_activation": {"line.trailing_activation": True},
    "line_gating": {"line.residual_mode": "gating"},
    "line_vanilla": {"line.residual_mode": "vanilla"},
    "pod_vanilla": {"pod.no_residual": False, "pod.residual_mode": "vanilla", "script.num_iterations": 2},
    "pod_gating": {"pod.no_residual": False, "pod.residual_mode": "gating", "script.num_iterations": 2},
    "script_residual": {"script.no_residual": False, "program.num_scripts": 2},
    "two_lines": {"pod.num_loc_pods": 2},
    "own_key_width": {"pod.num_features_per_loc_head": 3, "pod.num_heads_in_loc": 5},
    "fc": {"line.mod_fc_class": "FC", "pod.num_loc_pods": 2},
    "fc_with_code_positions": {
        "line.mod_fc_class": "FC",
        "positions.share_positional_encoding_between_functions": False,
    },
    "gmodfc": {"line.mod_fc_class": "GModFC"},
    "gmodfc_trailing": {"line.mod_fc_class": "GModFC", "line.trailing_activation": True},
    "hyperfc": {"line.mod_fc_class": "HyperFC", "pod.num_loc_pods": 2},
    "hyperfc_trailing": {"line.mod_fc_class": "HyperFC", "line.trailing_activation": True},
    "not_normalised": {"pod.normalize_function_variable_affinities": False},
    "not_straight_through": {"kernel.straight_through": False},
    "untruncated": {"kernel.truncation": REMOVED},
    "fixed_bandwidth": {"kernel.learnable_bandwidth": False},
    "masked": {"kernel.truncation_implementation": "masked", "kernel.straight_through": False},
    "masked_straight_through": {"kernel.truncation_implementation": "masked", "kernel.truncation": 1.2},
    "quantised_types": {"pod.quantize_variable_types": True},
    "quantised_signatures": {"pod.quantize_function_signature": True},
    "quantised_detached": {"pod.quantize_function_signature": True, "pod.detach_function_signatures": True},
    "quantised_both": {"pod.quantize_function_signature": REMOVED, "pod.quantize_variable_types": REMOVED},
    "consolidated": {"pod.consolidate_function_embeddings": True},
    "consolidated_detached": {
        "pod.consolidate_function_embeddings": True,
        "pod.detach_function_signatures": True,
    },
    "detached": {
        "pod.detach_function_signatures": True,
        "pod.detach_function_codes": True,
        "detach_patch_embeddings": True,
    },
    "consolidated_sizes": {
        "pod.consolidate_function_embeddings": True,
        "pod.function_embedding_features": 14,
        "pod.deconsolidation_mlp_capacity": 15,
        "pod.deconsolidation_mlp_depth": 3,
    },
    "consolidated_frozen": {"pod.consolidate_function_embeddings": True, "pod.detach_function_embeddings": True},
    "epsilons": {"pod.epsilon": 0.01, "line.epsilon": 0.02},
    "types_without_norm": {"types.use_layernorm": False},
    "type_depth_1": {"types.depth": 1},
    "type_depth_3": {"types.depth": 3, "types.capacity": 13},
    "absolute_positions": {"pre_positional_encoding": True},
    "absolute_and_detached": {"pre_positional_encoding": True, "detach_patch_embeddings": True},
    "entities": {"input_type": "entities", "num_entities": 4, "line.relative_positional_encoder": None},
    "entities_absolute": {
        "input_type": "entities",
        "num_entities": 4,
        "line.relative_positional_encoder": None,
        "pre_positional_encoding": True,
    },
    "shared_cls": {"use_shared_cls_tokens": True},
    "shared_head": {"use_shared_prediction_head": True, "num_classes_in_dataset": {"one": 9, "two": 9}},
    "shared_both": {
        "use_shared_cls_tokens": True,
        "use_shared_prediction_head": True,
        "num_classes_in_dataset": {"one": 9, "two": 9},
    },
    "one_task": {"num_classes_in_dataset": 9},
    "all_defaults": {
        "line.residual_mode": REMOVED,
        "line.scale_attention_weights": REMOVED,
        "line.trailing_activation": REMOVED,
        "line.use_fc_after_attention": REMOVED,
        "line.relative_positional_encoder": REMOVED,
        "line.relative_positional_encoder_kwargs": REMOVED,
        "pod.quantize_function_signature": REMOVED,
        "pod.quantize_variable_types": REMOVED,
        "pod.no_residual": REMOVED,
        "pod.normalize_function_variable_affinities": REMOVED,
        "script.type_inference_kwargs": REMOVED,
        "script.num_iterations": 2,
    },
}


def author_inputs(config: dict[str, Any]) -> torch.Tensor:
    shape = (4, 2, 6, 6) if config.get("input_type", "patches") == "patches" else (4, config["num_entities"], 2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weighted_logits(logits: dict[str, torch.Tensor]) -> torch.Tensor:
    weights = [torch.linspace(-1, 1, value.shape[1], dtype=value.dtype) for value in logits.values()]
    return torch.stack([(v * w).sum() for v, w in zip(logits.values(), weights, strict=True)]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("case", OPTION_CASES)
def test_option_equals_the_plain_computation(case: str) -> None:
    config = with_changes(SMALL_AUTHOR_CONFIG, OPTION_CASES[case])
    state = random_author_state(config)
    inputs = author_inputs(config)
    model = load_author_model(config, state)
    leaves = {name: value.clone().requires_grad_() for name, value in state.items()}

    logits, compatibility, outputs = run_author_reference(config, leaves, inputs)
    found = ni_framework.trace(model, inputs)

    assert list(found.logits) == list(logits)
    for task, expected in logits.items():
        torch.testing.assert_close(found.logits[task], expected.detach(), rtol=1e-11, atol=1e-11)
    for script, expected in enumerate(outputs):
        torch.testing.assert_close(found.outputs[script], expected.detach(), rtol=1e-10, atol=1e-10)
        for iteration, value in enumerate(compatibility[script]):
            torch.testing.assert_close(found.compatibility[script][iteration], value.detach(), rtol=1e-11, atol=1e-11)

    weighted_logits(logits).backward()
    weighted_logits(model(inputs)).backward()
    expected = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected_gradient = expected.get(name, torch.zeros_like(parameter))
        assert float((gradient - expected_gradient).abs().max()) <= 1e-10 * largest, name
    # These are buffers in the author's model.
    fixed = ("bandwidth", "gain") if "fixed_bandwidth" in case else ("gain",)
    assert all(name.endswith(fixed) for name in expected.keys() - parameters.keys())


def test_small_has_open_and_closed_pairs() -> None:
    model = load_author_model(SMALL_AUTHOR_CONFIG, random_author_state(SMALL_AUTHOR_CONFIG))
    openings = ni_framework.trace(model, author_inputs(SMALL_AUTHOR_CONFIG)).compatibility[0][0] > 0
    assert 0.2 < openings.double().mean() < 0.8
    assert openings.any(dim=1).double().mean() < 1  # an element that no function accepts


@pytest.mark.parametrize(("implementation", "opened"), [("direct", True), ("masked", False)])
def test_a_pair_at_the_truncation_is_open_when_direct_and_closed_when_masked(implementation: str, opened: bool) -> None:
    kernel = AuthorKernel(author_kwargs.KernelKwargs(truncation=1.0, truncation_implementation=implementation))
    with torch.no_grad():
        kernel.bandwidth.fill_(0.7)
    found = kernel(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.0, 1.0]]))  # at distance 1 exactly
    assert (found > 0).item() is opened
