"""A component that answers what no contract allows: named, with what it should have answered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ni_framework.contracts import Answer
from ni_framework.errors import PluginError
from tests.helpers.models import inputs_of, model_of, script_of

WRONG: dict[str, tuple[str, Any, str]] = {
    "nothing": ("body", lambda *_: None, "returned nothing"),
    "text": ("router", lambda *_: "open", "returned a str"),
    "another shape": ("type_inference", lambda *_: torch.zeros(3), "returned a tensor [3]"),
    "a loss of each sample": (
        "router",
        lambda *_: Answer(torch.ones(2, 4, 8).double() / 4, {"far": torch.zeros(2)}),
        "returned a tensor [2] as its loss `far`, which must be a scalar tensor",
    ),
    "a number as a loss": (
        "router",
        lambda *_: Answer(torch.ones(2, 4, 8).double() / 4, {"far": 1.0}),  # pyright: ignore[reportArgumentType]
        "returned a float as its loss `far`, which must be a scalar tensor",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answer(name: str) -> None:
    part, answer, said = WRONG[name]
    model = model_of()
    module = getattr(script_of(model), part)
    module.forward = answer
    with pytest.raises(PluginError) as caught:
        model(inputs_of())
    (problem,) = caught.value.problems
    cls = type(module)
    label = (
        f"{part} `{ {'body': 'lines_of_code', 'router': 'kernel', 'type_inference': 'mlp'}[part] }` of ni-framework "
    )
    assert problem.message.startswith(label)
    assert problem.message.endswith(f"({cls.__module__}:{cls.__qualname__}) {said}")
    assert str(problem.hint).startswith("its forward returns a tensor [")
    assert caught.value.exit_code == 4


def test_a_body_may_answer_all_functions_alike() -> None:
    model = model_of()
    script_of(model).body.forward = lambda x_BVD, prepared, pairs: pairs.share(x_BVD)
    model(inputs_of())
