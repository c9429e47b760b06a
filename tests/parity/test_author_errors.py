"""Messages for invalid configs, states and calls of the author's model."""

from __future__ import annotations

import re
from typing import Any

import numpy
import pytest
import torch

from ni_framework.author import load_author_model
from ni_framework.author.config import read_config
from ni_framework.author.line import AuthorLine
from ni_framework.author.network import AuthorModel
from ni_framework.author.state import load_author_state
from ni_framework.errors import CheckpointError, UsageError
from tests.helpers.author_state import REMOVED, SMALL_AUTHOR_CONFIG, random_author_state, with_changes

POD = "program_kwargs.script_kwargs.function_pod_kwargs"
LINE = f"{POD}.loc_pod_kwargs"
INVALID_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "needed key": ({"pod.num_functions": REMOVED}, f"config: {POD}.num_functions: missing from the config"),
    "needed section": ({"script.function_pod_kwargs": REMOVED}, f"config: {POD}: missing from the config"),
    "no size": (
        {"patch_size": REMOVED},
        "config: patch_size: missing from the config, which input_type 'patches' needs",
    ),
    "misspelt": (
        {"pod.num_function": 3},
        f"config: {POD}.num_function: the author's model has no such option; did you mean num_functions?",
    ),
    "unknown option": (
        {"kernel.qqq": 1},
        f"config: {POD}.kernel_kwargs.qqq: the author's model has no such option; known options: truncation, ",
    ),
    "not a section": ({"pod.kernel_kwargs": 3}, f"config: {POD}.kernel_kwargs: expected a mapping, not 3"),
    "wrong type": (
        {"script.num_iterations": "4"},
        "config: program_kwargs.script_kwargs.num_iterations: expected a whole number, not '4'",
    ),
    "flag for a number": ({"patch_size": True}, "config: patch_size: expected a whole number or null, not true"),
    "null": (
        {"kernel.straight_through": None},
        f"config: {POD}.kernel_kwargs.straight_through: expected true or false, not null",
    ),
    "too small": ({"pod.num_heads_in_loc": 0}, f"config: {POD}.num_heads_in_loc: must be at least 1, not 0"),
    "refused": (
        {"line.residual_mode": "linear"},
        f"config: {LINE}.residual_mode: 'linear' is not supported; supported: 'modulated_attn', 'gating', 'vanilla'",
    ),
    "mixing": (
        {"positions.function_head_mixing_mode": "sum"},
        f"config: {LINE}.relative_positional_encoder_kwargs.function_head_mixing_mode: 'sum' is not supported; "
        "supported: 'dot', 'sep_sum', 'seq_sum'",
    ),
    "stochastic": (
        {"kernel.stochastic_kernel": True},
        f"config: {POD}.kernel_kwargs.stochastic_kernel: true is not supported; supported: false",
    ),
    "refused default": (
        {"layerwise_positional_encoding": REMOVED},
        "config: layerwise_positional_encoding: "
        "absent, which means true in the author's code, is not supported; supported: false",
    ),
    "patch": ({"image_size": 8}, "config: patch_size: a patch of 3 does not divide an image of 8"),
    "heads": ({"pod.num_heads_in_loc": 3}, "config: num_heads_in_loc: 3 heads do not divide the 10 variable_features"),
    "entities": (
        {"input_type": "entities", "num_entities": 4},
        "config: relative_positional_encoder: entities have no positions; use null, or input_type 'patches'",
    ),
    "no entities": (
        {"input_type": "entities", "line.relative_positional_encoder": None},
        "config: num_entities: missing from the config, which input_type 'entities' needs",
    ),
    "no task": ({"num_classes_in_dataset": {}}, "config: num_classes_in_dataset: names no task"),
    "classes": (
        {"num_classes_in_dataset": {"one": "9"}},
        "config: num_classes_in_dataset.one: expected a whole number of at least 1, not '9'",
    ),
    "task with a dot": (
        {"num_classes_in_dataset": {"one.two": 9}},
        "config: num_classes_in_dataset: torch cannot name a module 'one.two'; choose another name",
    ),
    "task with a taken name": (
        {"num_classes_in_dataset": {"keys": 9}},
        "config: num_classes_in_dataset: torch cannot name a module 'keys'; choose another name",
    ),
    "shared head": (
        {"use_shared_prediction_head": True},
        "config: use_shared_prediction_head: the tasks differ in their number of classes: one 9, two 11",
    ),
}


@pytest.mark.parametrize("case", INVALID_CONFIGS)
def test_config(case: str) -> None:
    changes, text = INVALID_CONFIGS[case]
    with pytest.raises(UsageError, match=re.escape(text)):
        load_author_model(with_changes(SMALL_AUTHOR_CONFIG, changes), {})


def test_all_problems_of_a_config_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        read_config(with_changes(SMALL_AUTHOR_CONFIG, {"patch": 3, "patch_size": 0, "pod.num_functions": REMOVED}))
    assert str(caught.value).count("config: ") == 3


def test_config_of_wrong_type() -> None:
    with pytest.raises(UsageError, match="config: expected a mapping, not null"):
        read_config(None)  # pyright: ignore[reportArgumentType]


def test_each_tensor_is_needed_in_its_shape() -> None:
    full = random_author_state(SMALL_AUTHOR_CONFIG)
    with torch.device("meta"):
        model = AuthorModel(read_config(SMALL_AUTHOR_CONFIG))
    for name in model.state_dict():
        shape = list(full[name].shape)
        wrong = full | {name: torch.zeros(2, 13, dtype=torch.float64)}
        with pytest.raises(CheckpointError, match=re.escape(f"state: {name}: expected shape {shape}, not [2, 13]")):
            load_author_state(model, wrong)
        lacking = {key: value for key, value in full.items() if key != name}
        with pytest.raises(CheckpointError, match=re.escape(f"state: {name}: missing; expected shape {shape}")):
            load_author_state(model, lacking)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cls_token.three", torch.zeros(1, 1, 10), "the model of this config has no such tensor"),
        ("patch_to_embedding.bias", [0.0] * 10, "expected floating point numbers, not list"),
        ("patch_to_embedding.bias", numpy.zeros(10, dtype=numpy.int64), "expected floating point numbers, not int64"),
        (
            "transformer.scripts.0.function_pod.type_inference.body.0.bias",
            torch.zeros(10, dtype=torch.float64),
            "differs from transformer.scripts.0.type_inference.body.0.bias, although both are the same tensor",
        ),
        (
            "transformer.scripts.0.function_pod.loc_pods.0.gain",
            torch.zeros(()),
            "the model of this config has no such tensor",
        ),
    ],
)
def test_state(name: str, value: Any, text: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"state: {name}: {text}")):
        load_author_model(SMALL_AUTHOR_CONFIG, random_author_state(SMALL_AUTHOR_CONFIG) | {name: value})


def test_a_codebook_that_differs_from_its_copy() -> None:
    config = with_changes(SMALL_AUTHOR_CONFIG, {"pod.quantize_variable_types": True})
    name = "transformer.scripts.0.function_pod.quantizer.codebook"
    original = "transformer.scripts.0.type_inference.quantizer.codebook"
    state = random_author_state(config)
    load_author_model(config, state | {name: state[original]})
    with pytest.raises(
        CheckpointError, match=re.escape(f"state: {name}: differs from {original}, although both are the same tensor")
    ):
        load_author_model(config, state | {name: 2 * state[original]})


def test_gains_may_be_absent() -> None:
    """They are the author's constants, unless the state contains others."""
    config = with_changes(SMALL_AUTHOR_CONFIG, {"line.residual_mode": "gating"})
    state = {name: value for name, value in random_author_state(config).items() if not name.endswith("gain")}
    lines = [module for module in load_author_model(config, state).modules() if isinstance(module, AuthorLine)]
    assert lines
    assert all(line.post_attention_gain == line.post_mlp_gain == 2.5 for line in lines)
    assert lines[0].post_attention_gain.dtype == torch.float64


def test_dtypes_must_agree() -> None:
    state = random_author_state(SMALL_AUTHOR_CONFIG)
    state["mlp_prediction_head.two.1.bias"] = state["mlp_prediction_head.two.1.bias"].float()
    text = "state: all tensors must have the same dtype: .* float64, mlp_prediction_head.two.1.bias float32"
    with pytest.raises(CheckpointError, match=text):
        load_author_model(SMALL_AUTHOR_CONFIG, state)


def test_unused_tensors_may_be_absent() -> None:
    state = random_author_state(SMALL_AUTHOR_CONFIG)
    expected_names = load_author_model(SMALL_AUTHOR_CONFIG, state).state_dict()
    load_author_model(SMALL_AUTHOR_CONFIG, {name: state[name] for name in expected_names})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mask": torch.ones(4, 4, dtype=torch.bool)}, "mask: the author's model has no masks; use None"),
        ({"tasks": ["three"]}, "tasks: there is no task 'three'; this model has one, two"),
        ({"tasks": "one"}, "tasks: expected a list of different task names, not 'one'; this model has one, two"),
        ({"tasks": ["one", "one"]}, "tasks: expected a list of different task names, not ['one', 'one']"),
        ({"tasks": []}, "tasks: expected a list of different task names, not []"),
        ({"inputs": torch.zeros(4, 2, 6, 7)}, "inputs: expected shape [B, 2, 6, 6], not [4, 2, 6, 7]"),
        ({"inputs": torch.zeros(2, 6, 6)}, "inputs: expected shape [B, 2, 6, 6], not [2, 6, 6]"),
    ],
)
def test_call(arguments: dict[str, Any], text: str) -> None:
    model = load_author_model(SMALL_AUTHOR_CONFIG, random_author_state(SMALL_AUTHOR_CONFIG))
    with pytest.raises(UsageError, match=re.escape(text)):
        model(**({"inputs": torch.zeros(4, 2, 6, 6, dtype=torch.float64)} | arguments))


def test_entities() -> None:
    config = with_changes(
        SMALL_AUTHOR_CONFIG, {"input_type": "entities", "num_entities": 4, "line.relative_positional_encoder": None}
    )
    model = load_author_model(config, random_author_state(config))
    assert model(torch.zeros(3, 5, 2, dtype=torch.float64))["one"].shape == (
        3,
        9,
    )  # Without positions, the number is free.
    with pytest.raises(UsageError, match=re.escape("inputs: expected shape [B, 4, 2], not [3, 4, 1]")):
        model(torch.zeros(3, 4, 1, dtype=torch.float64))
    config = with_changes(config, {"pre_positional_encoding": True})
    with pytest.raises(UsageError, match=re.escape("inputs: expected shape [B, 4, 2], not [3, 5, 2]")):
        load_author_model(config, random_author_state(config))(torch.zeros(3, 5, 2, dtype=torch.float64))
