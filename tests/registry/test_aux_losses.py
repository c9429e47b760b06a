"""Auxiliary losses that a type inference, router or body returns with its result."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ni_framework import recipe as recipes
from ni_framework.contracts import Output
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.registry.resolve import resolve_config

TWO_SCRIPT_RECIPE = """
ni: 1
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  scripts: [{}, {iterations: 2}]
  iterations: 3
  functions: 5
  code: 7
  type: 6
data: {use: digits}
train: {steps: 2, batch: 9}
"""


def build_two_script_model() -> Interpreter:
    return build_model(recipes.loads(TWO_SCRIPT_RECIPE, resolve=resolve_config))


class WithAuxLoss(nn.Module):
    """Wraps a component and adds a loss: the number of the call, from 1."""

    takes_context = False

    def __init__(self, inner: Any, name: str) -> None:
        super().__init__()
        self.inner, self.name, self.calls = inner, name, 0

    def prepare(self, *arguments: Any) -> Any:
        return self.inner.prepare(*arguments)

    def forward(self, *arguments: Any) -> Any:
        self.calls += 1
        return Output(self.inner(*arguments), {self.name: torch.tensor(float(self.calls))})


def model_with_losses(**names: str) -> Interpreter:
    """A model in which components (`router="balance"`) return losses with these names."""
    model = build_two_script_model()
    for script in model.scripts:
        for component, name in names.items():
            setattr(script, component, WithAuxLoss(getattr(script, component), name))
    return model


def forward_losses(model: Interpreter) -> dict[str, float]:
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    forward = model(inputs, detail="losses")
    torch.testing.assert_close(forward.logits, build_two_script_model()(inputs), rtol=0, atol=0)
    return {name: float(loss) for name, loss in forward.losses.items()}


def test_losses_are_averaged_over_iterations_and_added_over_scripts() -> None:
    """The mean of 1, 2, 3 plus the mean of 1, 2; the logits do not change."""
    model = model_with_losses(type_inference="place", router="balance", body="size")
    assert forward_losses(model) == {"place": 3.5, "balance": 3.5, "size": 3.5}


def test_losses_with_the_same_name_are_added() -> None:
    assert forward_losses(model_with_losses(type_inference="same", router="same", body="same")) == {"same": 10.5}


def test_without_losses() -> None:
    assert forward_losses(build_two_script_model()) == {}


def test_output_wrap_accepts_values_and_outputs() -> None:
    loss = {"a": torch.tensor(1.0)}
    assert Output.wrap(torch.tensor(2.0)) == Output(torch.tensor(2.0), {}, {})
    assert Output.wrap(Output(torch.tensor(2.0), loss)) == (torch.tensor(2.0), loss, {})
