"""A component whose output breaks the contract is named, with the output that was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ni_framework.contracts import Output
from ni_framework.errors import PluginError
from tests.helpers.models import build_base_model, first_script, random_inputs

INVALID_OUTPUTS: dict[str, tuple[str, Any, str]] = {
    "nothing": ("body", lambda *_: None, "returned nothing"),
    "text": ("router", lambda *_: "open", "returned a str"),
    "another shape": ("type_inference", lambda *_: torch.zeros(3), "returned a tensor [3]"),
    "a loss of each sample": (
        "router",
        lambda *_: Output(torch.ones(2, 4, 8).double() / 4, {"far": torch.zeros(2)}),
        "returned a tensor [2] as its loss `far`, which must be a scalar tensor",
    ),
    "a number as a loss": (
        "router",
        lambda *_: Output(torch.ones(2, 4, 8).double() / 4, {"far": 1.0}),  # pyright: ignore[reportArgumentType]
        "returned a float as its loss `far`, which must be a scalar tensor",
    ),
}


@pytest.mark.parametrize("name", INVALID_OUTPUTS)
def test_invalid_output(name: str) -> None:
    kind, forward, message = INVALID_OUTPUTS[name]
    model = build_base_model()
    module = getattr(first_script(model), kind)
    module.forward = forward
    with pytest.raises(PluginError) as caught:
        model(random_inputs())
    (problem,) = caught.value.problems
    cls = type(module)
    component = {"body": "lines_of_code", "router": "kernel", "type_inference": "mlp"}[kind]
    assert problem.message.startswith(f"{kind} `{component}` of ni-framework ")
    assert problem.message.endswith(f"({cls.__module__}:{cls.__qualname__}) {message}")
    assert str(problem.hint).startswith("its forward returns a tensor [")
    assert caught.value.exit_code == 4


def test_a_body_may_return_the_same_rows_for_all_functions() -> None:
    model = build_base_model()
    first_script(model).body.forward = lambda x_BVD, prepared, pairs: pairs.dispatch(x_BVD)
    model(random_inputs())
