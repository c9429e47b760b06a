"""What a user reads after a wrong call, or where sizes in a recipe do not fit together, as it stands in `errors/model.txt`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import pytest
import torch
from ni_standard.inputs import Patches
from ni_standard.routers.kernels import Kernel

from ni_framework.errors import NIError, PluginError, RecipeError, UsageError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from tests.helpers.error_texts import expected_errors
from tests.helpers.models import TASKS, TINY, build, recipe_of, tiny_inputs, tiny_of

Case = tuple[type[NIError], Callable[[], object]]


def calling(**arguments: Any) -> Case:
    """A forward of the tiny model with these arguments."""
    return UsageError, lambda: tiny_of()(**{"inputs": tiny_inputs(), **arguments})


def iterating(value: object, scripts: int = 2) -> Case:
    return UsageError, lambda: setattr(tiny_of(f"model.scripts={scripts}"), "iterations", value)


def building(*overrides: str, tasks: Mapping[str, int] = TASKS) -> Case:
    return RecipeError, lambda: build(recipe_of(*overrides, text=TINY), tasks)


def without_grid() -> Interpreter:
    """A model of elements without places."""
    original = Patches.__init__

    def init(self: Patches, *arguments: Any) -> None:
        original(self, *arguments)
        self.grid = None

    with mock.patch.object(Patches, "__init__", init):
        return build(recipe_of("model.body.positions=dot", text=TINY))


def broken_component() -> Interpreter:
    """A component of somebody's that fails while it is built."""
    with mock.patch.object(Kernel, "__init__", side_effect=ZeroDivisionError("division by zero")):
        return build(recipe_of(text=TINY))


CASES: dict[str, Case] = {
    "inputs without a batch": calling(inputs=tiny_inputs()[0]),
    "inputs of another size": calling(inputs=tiny_inputs()[..., :3]),
    "inputs with a dimension too many": calling(inputs=tiny_inputs()[None]),
    "a mask of pixels": calling(mask=torch.ones(2, 6, 4, dtype=torch.bool)),
    "a mask with CLS": calling(mask=torch.ones(2, 8, dtype=torch.bool)),
    "a mask of another batch": calling(mask=torch.ones(3, 6, dtype=torch.bool)),
    "a mask of numbers": calling(mask=torch.ones(2, 6)),
    "unknown task": calling(tasks=["shape", "size"]),
    "repeated task": calling(tasks=["shape", "shape"]),
    "a string as tasks": calling(tasks="shape"),
    "no tasks": calling(tasks=[]),
    "keys of another batch": calling(key=torch.zeros(3, dtype=torch.long)),
    "keys in parts": calling(key=torch.zeros(2)),
    "straight through, packed": building("model.router=straight_through_kernel", "model.execution=packed"),
    "straight through in a script, packed": building(
        "model.scripts=[{}, {execution: packed, router: {use: gumbel_kernel, hard: true}}]"
    ),
    "negative iterations": iterating(-1),
    "no iterations": iterating(0),
    "iterations yes": iterating(True),
    "iterations in parts": iterating(2.5),
    "iterations as text": iterating("32"),
    "iterations of too few scripts": iterating([3]),
    "iterations of a script in parts": iterating([3, 1.5]),
    "heads that do not divide the width": building("model.body.heads=3"),
    "heads that do not divide the width of a script": building("model.scripts=[{}, {body: {heads: 5}}]"),
    "more heads than width": building("model.body.heads=100"),
    "positions without a grid": (RecipeError, without_grid),
    "inputs of another shape than the data": (RecipeError, lambda: build_model(recipe_of(text=TINY))),
    "a shared head of tasks with different classes": building("model.head.shared_head=true"),
    "a patch that does not divide": (RecipeError, lambda: recipe_of("model.input.patch=4", text=TINY)),
    "a patch that divides one side": (RecipeError, lambda: recipe_of("model.input.patch=3", text=TINY)),
    "a component that fails while it is built": (PluginError, broken_component),
}


def report(name: str) -> str:
    """What the user reads, with the class of the error and its exit code."""
    cls, act = CASES[name]
    with pytest.raises(NIError) as caught:
        act()
    assert type(caught.value) is cls
    return f"{cls.__name__}: {caught.value}\n[exit {cls.exit_code}]\n"


@pytest.fixture(scope="module", autouse=True)
def expected() -> dict[str, str]:
    return expected_errors("model", CASES, report)


@pytest.mark.parametrize("name", CASES)
def test_report(name: str, expected: dict[str, str]) -> None:
    assert report(name) == expected.get(name)


def test_snapshot_has_no_other_cases(expected: dict[str, str]) -> None:
    assert list(expected) == list(CASES)


def test_what_the_cases_spoil_is_in_order() -> None:
    model = tiny_of()
    assert list(model(tiny_inputs(), torch.ones(2, 6, dtype=torch.bool), ["colour"])) == ["colour"]
    build(recipe_of("model.head.shared_head=true", text=TINY), {"shape": 3, "colour": 3})
