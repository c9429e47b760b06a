"""The author's model compared with numbers that the author's code computed, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

import ni_framework
from ni_framework.author.config import read_config
from ni_framework.author.network import AuthorModel
from ni_framework.model.interpreter import ModelOutput

HERE = Path(__file__).parent
TOLERANCE = 1e-9


@frozen
class Vectors:
    """The content of one file: the config and state to load, and the expected numbers."""

    config: dict[str, Any]
    state: dict[str, Any]
    inputs: Tensor
    expected: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.expected.items() if name.startswith(prefix)}


@pytest.fixture(scope="module", params=["digits_small", "two_scripts_sparse"])
def vectors(request: pytest.FixtureRequest) -> Vectors:
    return read_vectors(request.param)


def read_vectors(name: str) -> Vectors:
    with numpy.load(HERE / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    config = json.loads(str(arrays.pop("config")))
    state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    expected = {key: torch.from_numpy(value) for key, value in arrays.items() if key not in ("input", "config")}
    return Vectors(config, state, torch.from_numpy(arrays["input"]), expected)


def load_vector_model(vectors: Vectors) -> nn.Module:
    return ni_framework.load_author_model(vectors.config, vectors.state)


def max_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == torch.float64
    return float((found - expected).detach().abs().max())


def test_outputs(vectors: Vectors) -> None:
    found = ni_framework.trace(load_vector_model(vectors), vectors.inputs)
    logits = vectors.part("prediction/")
    assert list(found.logits) == list(vectors.config["num_classes_in_dataset"])
    assert max(max_error(found.logits[task], value) for task, value in logits.items()) < TOLERANCE
    compatibility = vectors.part("compatibility/")
    assert sum(map(len, found.compatibility)) == len(compatibility)
    for place, value in compatibility.items():
        script, iteration = (int("".join(filter(str.isdigit, part))) for part in place.split("/"))
        assert max_error(found.compatibility[script][iteration], value) < TOLERANCE
        assert torch.equal(found.compatibility[script][iteration] == 0, value == 0)
    assert len(found.outputs) == len(vectors.part("output/"))
    for script, output in enumerate(found.outputs):
        assert max_error(output, vectors.expected[f"output/script{script}"]) < TOLERANCE


def test_gradients(vectors: Vectors) -> None:
    model = load_vector_model(vectors)
    total = torch.zeros((), dtype=torch.float64)
    for logits in model(vectors.inputs).values():
        total = total + (logits * torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype)).sum()
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    expected = vectors.part("grad/")
    assert gradients.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert max_error(gradients[name], value) < TOLERANCE * largest, name
    assert abs(total_norm(gradients) - total_norm(expected)) < TOLERANCE * largest


def total_norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())


def test_parameters_are_the_tensors_that_the_author_s_model_reads(vectors: Vectors) -> None:
    parameters = dict(load_vector_model(vectors).named_parameters())
    # Signatures are used, but not trained.
    detached = {name for name in vectors.state if name.endswith(".function_signatures")}
    assert parameters.keys() == vectors.part("grad/").keys() | detached
    for name, parameter in parameters.items():
        assert torch.equal(parameter, torch.from_numpy(vectors.state[name]))


def test_changing_the_model_does_not_change_the_loaded_state(vectors: Vectors) -> None:
    before = {name: value.copy() for name, value in vectors.state.items()}
    with torch.no_grad():
        for parameter in load_vector_model(vectors).parameters():
            parameter.add_(1)
    assert all(numpy.array_equal(value, vectors.state[name]) for name, value in before.items())


def test_dtype_is_kept(vectors: Vectors) -> None:
    state = {name: torch.from_numpy(value).float() for name, value in vectors.state.items()}
    model = ni_framework.load_author_model(vectors.config, state)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    found = model(vectors.inputs.float())
    for task, value in vectors.part("prediction/").items():
        torch.testing.assert_close(found[task], value.float(), rtol=1e-4, atol=1e-4)


def test_detail(vectors: Vectors) -> None:
    model = load_vector_model(vectors)
    plain = model(vectors.inputs)
    for detail in ("losses", "trace"):
        found = model(vectors.inputs, detail=detail)
        assert isinstance(found, ModelOutput)
        assert found.losses == {}
        assert all(torch.equal(found.logits[task], value) for task, value in plain.items())
    states = model(vectors.inputs, detail="trace").script_outputs[-1].state
    assert torch.equal(states[-1], model(vectors.inputs, detail="trace").script_outputs[-1].output_BVD)
    assert model(vectors.inputs, detail="losses").script_outputs[0].compatibility == []


def test_some_tasks_equal_a_model_of_these_tasks_alone() -> None:
    vectors = read_vectors("two_scripts_sparse")
    config = vectors.config | {"num_classes_in_dataset": {"b": 7}}
    state = {k: v for k, v in vectors.state.items() if not k.startswith(("cls_token.a", "mlp_prediction_head.a"))}
    alone = ni_framework.load_author_model(config, state)(vectors.inputs)
    found = load_vector_model(vectors)(vectors.inputs, tasks=["b"])
    assert list(found) == ["b"]
    assert max_error(found["b"], alone["b"]) < 1e-13
    # The CLS element of the other task is absent.
    assert max_error(found["b"], vectors.expected["prediction/b"]) > 1e-3


def test_tasks_are_in_the_requested_order() -> None:
    vectors = read_vectors("two_scripts_sparse")
    found = ni_framework.trace(load_vector_model(vectors), vectors.inputs, tasks=["b", "a"])
    assert list(found.logits) == ["b", "a"]
    # Elements are a set, so that only their order changes.
    for task, value in vectors.part("prediction/").items():
        assert max_error(found.logits[task], value) < TOLERANCE
    swapped = found.outputs[-1][:, [1, 0, *range(2, 18)]]
    assert max_error(swapped, vectors.expected["output/script1"]) < TOLERANCE


def test_shared_cls_element_is_repeated_for_each_task() -> None:
    vectors = read_vectors("digits_small")
    model = load_vector_model(vectors)
    assert ni_framework.trace(model, vectors.inputs, tasks=["svhn", "mnist"]).outputs[0].shape == (2, 18, 24)
    one, all_three = model(vectors.inputs, tasks=["svhn"])["svhn"], model(vectors.inputs)["svhn"]
    assert max_error(one, all_three) > 1e-3


def test_the_digits_preset_has_the_author_s_number_of_parameters() -> None:
    config = read_vectors("digits_small").config
    program = config["program_kwargs"]["script_kwargs"]
    pod = program["function_pod_kwargs"]
    pod |= {"code_features": 192, "num_features_per_loc_head": 32, "num_functions": 5, "num_heads_in_loc": 4}
    program |= {"variable_features": 192, "type_features": 24, "num_types": 100, "num_iterations": 8}
    with torch.device("meta"):
        model = AuthorModel(read_config(config | {"image_size": 32}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 628_251
