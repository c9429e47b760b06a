"""The messages after a wrong call, and for sizes in a recipe that do not fit together, as in `error_texts/model.txt`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import pytest
import torch
from ni_standard.inputs import Patches
from ni_standard.routers.kernels import NormalisedKernel

from ni_framework.errors import NIError, PluginError, RecipeError, UsageError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from tests.helpers.error_texts import expected_errors
from tests.helpers.models import TASKS, TINY_RECIPE, build_tiny_model, build_with_tasks, load_base_recipe, tiny_inputs

ModelErrorCase = tuple[type[NIError], Callable[[], object]]


def call_tiny(**arguments: Any) -> ModelErrorCase:
    """A forward of the tiny model with these arguments."""
    return UsageError, lambda: build_tiny_model()(**{"inputs": tiny_inputs(), **arguments})


def set_iterations(value: object, scripts: int = 2) -> ModelErrorCase:
    return UsageError, lambda: setattr(build_tiny_model(f"model.scripts={scripts}"), "iterations", value)


def build_tiny(*overrides: str, tasks: Mapping[str, int] = TASKS) -> ModelErrorCase:
    return RecipeError, lambda: build_with_tasks(load_base_recipe(*overrides, text=TINY_RECIPE), tasks)


def call_without_grid() -> Interpreter:
    """A model whose elements are not on a grid, with relative positions."""
    original = Patches.__init__

    def init(self: Patches, *arguments: Any) -> None:
        original(self, *arguments)
        self.grid = None

    with mock.patch.object(Patches, "__init__", init):
        return build_with_tasks(load_base_recipe("model.body.positions=dot", text=TINY_RECIPE))


def build_with_broken_component() -> Interpreter:
    """A model with a component that fails while it is built."""
    with mock.patch.object(NormalisedKernel, "__init__", side_effect=ZeroDivisionError("division by zero")):
        return build_with_tasks(load_base_recipe(text=TINY_RECIPE))


MODEL_ERROR_CASES: dict[str, ModelErrorCase] = {
    "inputs without a batch": call_tiny(inputs=tiny_inputs()[0]),
    "inputs of another size": call_tiny(inputs=tiny_inputs()[..., :3]),
    "inputs with a dimension too many": call_tiny(inputs=tiny_inputs()[None]),
    "a mask of pixels": call_tiny(mask=torch.ones(2, 6, 4, dtype=torch.bool)),
    "a mask with CLS": call_tiny(mask=torch.ones(2, 8, dtype=torch.bool)),
    "a mask of another batch": call_tiny(mask=torch.ones(3, 6, dtype=torch.bool)),
    "a mask of numbers": call_tiny(mask=torch.ones(2, 6)),
    "unknown task": call_tiny(tasks=["shape", "size"]),
    "repeated task": call_tiny(tasks=["shape", "shape"]),
    "a string as tasks": call_tiny(tasks="shape"),
    "no tasks": call_tiny(tasks=[]),
    "keys of another batch": call_tiny(key=torch.zeros(3, dtype=torch.long)),
    "keys in parts": call_tiny(key=torch.zeros(2)),
    "straight through, packed": build_tiny("model.router=straight_through_kernel", "model.execution=packed"),
    "straight through in a script, packed": build_tiny(
        "model.scripts=[{}, {execution: packed, router: {use: gumbel_kernel, hard: true}}]"
    ),
    "negative iterations": set_iterations(-1),
    "no iterations": set_iterations(0),
    "iterations yes": set_iterations(True),
    "iterations in parts": set_iterations(2.5),
    "iterations as text": set_iterations("32"),
    "iterations of too few scripts": set_iterations([3]),
    "iterations of a script in parts": set_iterations([3, 1.5]),
    "heads that do not divide the width": build_tiny("model.body.heads=3"),
    "heads that do not divide the width of a script": build_tiny("model.scripts=[{}, {body: {heads: 5}}]"),
    "more heads than width": build_tiny("model.body.heads=100"),
    "positions without a grid": (RecipeError, call_without_grid),
    "inputs of another shape than the data": (RecipeError, lambda: build_model(load_base_recipe(text=TINY_RECIPE))),
    "a shared head of tasks with different classes": build_tiny("model.head.shared_head=true"),
    "a patch that does not divide": (RecipeError, lambda: load_base_recipe("model.input.patch=4", text=TINY_RECIPE)),
    "a patch that divides one side": (RecipeError, lambda: load_base_recipe("model.input.patch=3", text=TINY_RECIPE)),
    "a component that fails while it is built": (PluginError, build_with_broken_component),
}


def model_error_report(name: str) -> str:
    """The message of an error, with its class and exit code."""
    cls, act = MODEL_ERROR_CASES[name]
    with pytest.raises(NIError) as caught:
        act()
    assert type(caught.value) is cls
    return f"{cls.__name__}: {caught.value}\n[exit {cls.exit_code}]\n"


@pytest.fixture(scope="module", autouse=True)
def expected_reports() -> dict[str, str]:
    return expected_errors("model", MODEL_ERROR_CASES, model_error_report)


@pytest.mark.parametrize("name", MODEL_ERROR_CASES)
def test_report(name: str, expected_reports: dict[str, str]) -> None:
    assert model_error_report(name) == expected_reports.get(name)


def test_expected_texts_have_no_other_cases(expected_reports: dict[str, str]) -> None:
    assert list(expected_reports) == list(MODEL_ERROR_CASES)


def test_unmodified_inputs_are_valid() -> None:
    model = build_tiny_model()
    assert list(model(tiny_inputs(), torch.ones(2, 6, dtype=torch.bool), ["colour"])) == ["colour"]
    build_with_tasks(load_base_recipe("model.head.shared_head=true", text=TINY_RECIPE), {"shape": 3, "colour": 3})
