"""What is said of configs, states and calls that make no sense."""

from __future__ import annotations

import re
from typing import Any

import numpy
import pytest
import torch

from ni_framework.author import load_author_model
from ni_framework.author.config import read_config
from ni_framework.author.line import Line
from ni_framework.author.network import AuthorModel
from ni_framework.author.state import fill
from ni_framework.errors import CheckpointError, UsageError
from tests.helpers.author_state import ABSENT, SMALL, changed, state_of

POD = "program_kwargs.script_kwargs.function_pod_kwargs"
LINE = f"{POD}.loc_pod_kwargs"
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "needed key": ({"pod.num_functions": ABSENT}, f"config: {POD}.num_functions: missing from the config"),
    "needed section": ({"script.function_pod_kwargs": ABSENT}, f"config: {POD}: missing from the config"),
    "no size": (
        {"patch_size": ABSENT},
        "config: patch_size: missing from the config, which input_type 'patches' needs",
    ),
    "misspelt": (
        {"pod.num_function": 3},
        f"config: {POD}.num_function: the author's model has no such option; did you mean num_functions?",
    ),
    "stranger": (
        {"kernel.qqq": 1},
        f"config: {POD}.kernel_kwargs.qqq: the author's model has no such option; known here are truncation, ",
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
        {"layerwise_positional_encoding": ABSENT},
        "config: layerwise_positional_encoding: "
        "absent, which means true in the author's code, is not supported; supported: false",
    ),
    "patch": ({"image_size": 8}, "config: patch_size: a patch of 3 does not divide an image of 8"),
    "heads": ({"pod.num_heads_in_loc": 3}, "config: num_heads_in_loc: 3 heads cannot share the 10 variable_features"),
    "entities": (
        {"input_type": "entities", "num_entities": 4},
        "config: relative_positional_encoder: entities have no places; use null, or input_type 'patches'",
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


@pytest.mark.parametrize("case", CONFIGS)
def test_config(case: str) -> None:
    changes, text = CONFIGS[case]
    with pytest.raises(UsageError, match=re.escape(text)):
        load_author_model(changed(SMALL, changes), {})


def test_a_config_s_problems_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        read_config(changed(SMALL, {"patch": 3, "patch_size": 0, "pod.num_functions": ABSENT}))
    assert str(caught.value).count("config: ") == 3


def test_a_config_that_is_none() -> None:
    with pytest.raises(UsageError, match="config: expected a mapping, not null"):
        read_config(None)  # pyright: ignore[reportArgumentType]


def test_each_tensor_is_needed_in_its_shape() -> None:
    full = state_of(SMALL)
    with torch.device("meta"):
        model = AuthorModel(read_config(SMALL))
    for name in model.state_dict():
        shape = list(full[name].shape)
        wrong = full | {name: torch.zeros(2, 13, dtype=torch.float64)}
        with pytest.raises(CheckpointError, match=re.escape(f"state: {name}: expected shape {shape}, not [2, 13]")):
            fill(model, wrong)
        lacking = {key: value for key, value in full.items() if key != name}
        with pytest.raises(CheckpointError, match=re.escape(f"state: {name}: missing; expected shape {shape}")):
            fill(model, lacking)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cls_token.three", torch.zeros(1, 1, 10), "the model of this config has no such tensor"),
        ("patch_to_embedding.bias", [0.0] * 10, "expected floating point numbers, not list"),
        ("patch_to_embedding.bias", numpy.zeros(10, dtype=numpy.int64), "expected floating point numbers, not int64"),
        (
            "transformer.scripts.0.function_pod.type_inference.body.0.bias",
            torch.zeros(10, dtype=torch.float64),
            "differs from transformer.scripts.0.type_inference.body.0.bias, although both are one tensor",
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
        load_author_model(SMALL, state_of(SMALL) | {name: value})


def test_a_codebook_that_differs_from_its_copy() -> None:
    config = changed(SMALL, {"pod.quantize_variable_types": True})
    name = "transformer.scripts.0.function_pod.quantizer.codebook"
    original = "transformer.scripts.0.type_inference.quantizer.codebook"
    state = state_of(config)
    load_author_model(config, state | {name: state[original]})
    with pytest.raises(
        CheckpointError, match=re.escape(f"state: {name}: differs from {original}, although both are one")
    ):
        load_author_model(config, state | {name: 2 * state[original]})


def test_gains_may_be_absent() -> None:
    """They are the author's constants, unless the state says otherwise."""
    config = changed(SMALL, {"line.residual_mode": "gating"})
    state = {name: value for name, value in state_of(config).items() if not name.endswith("gain")}
    lines = [module for module in load_author_model(config, state).modules() if isinstance(module, Line)]
    assert lines
    assert all(line.post_attention_gain == line.post_mlp_gain == 2.5 for line in lines)
    assert lines[0].post_attention_gain.dtype == torch.float64


def test_dtypes_must_agree() -> None:
    state = state_of(SMALL)
    state["mlp_prediction_head.two.1.bias"] = state["mlp_prediction_head.two.1.bias"].float()
    text = "state: tensors of different dtypes cannot work together: .* float64, mlp_prediction_head.two.1.bias float32"
    with pytest.raises(CheckpointError, match=text):
        load_author_model(SMALL, state)


def test_what_the_model_never_reads_may_be_absent() -> None:
    state = state_of(SMALL)
    wanted = load_author_model(SMALL, state).state_dict()
    load_author_model(SMALL, {name: state[name] for name in wanted})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mask": torch.ones(4, 4, dtype=torch.bool)}, "mask: the author's model has no masks; leave it out"),
        ({"tasks": ["three"]}, "tasks: there is no task 'three'; this model has one, two"),
        ({"tasks": "one"}, "tasks: expected a list of different task names, not 'one'; this model has one, two"),
        ({"tasks": ["one", "one"]}, "tasks: expected a list of different task names, not ['one', 'one']"),
        ({"tasks": []}, "tasks: expected a list of different task names, not []"),
        ({"inputs": torch.zeros(4, 2, 6, 7)}, "inputs: expected shape [B, 2, 6, 6], not [4, 2, 6, 7]"),
        ({"inputs": torch.zeros(2, 6, 6)}, "inputs: expected shape [B, 2, 6, 6], not [2, 6, 6]"),
    ],
)
def test_call(arguments: dict[str, Any], text: str) -> None:
    model = load_author_model(SMALL, state_of(SMALL))
    with pytest.raises(UsageError, match=re.escape(text)):
        model(**({"inputs": torch.zeros(4, 2, 6, 6, dtype=torch.float64)} | arguments))


def test_entities() -> None:
    config = changed(SMALL, {"input_type": "entities", "num_entities": 4, "line.relative_positional_encoder": None})
    model = load_author_model(config, state_of(config))
    assert model(torch.zeros(3, 5, 2, dtype=torch.float64))["one"].shape == (3, 9)  # no table binds it to 4
    with pytest.raises(UsageError, match=re.escape("inputs: expected shape [B, 4, 2], not [3, 4, 1]")):
        model(torch.zeros(3, 4, 1, dtype=torch.float64))
    config = changed(config, {"pre_positional_encoding": True})
    with pytest.raises(UsageError, match=re.escape("inputs: expected shape [B, 4, 2], not [3, 5, 2]")):
        load_author_model(config, state_of(config))(torch.zeros(3, 5, 2, dtype=torch.float64))
