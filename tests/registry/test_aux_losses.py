"""Auxiliary losses: what a type inference, router or body returns beside its result."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ni_framework import recipe as recipes
from ni_framework.contracts import Answer
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.registry.resolve import config_of

RECIPE = """
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


def made() -> Interpreter:
    return build_model(recipes.loads(RECIPE, resolve=config_of))


class Lossy(nn.Module):
    """Another component, with a loss beside its result: the number of the call, from 1."""

    def __init__(self, inner: Any, name: str) -> None:
        super().__init__()
        self.inner, self.name, self.calls = inner, name, 0

    def prepare(self, *arguments: Any) -> Any:
        return self.inner.prepare(*arguments)

    def forward(self, *arguments: Any) -> Any:
        self.calls += 1
        return Answer(self.inner(*arguments), {self.name: torch.tensor(float(self.calls))})


def with_parts(**names: str) -> Interpreter:
    """A model whose scripts' parts return losses of these names."""
    model = made()
    for script in model.scripts:
        for part, name in names.items():
            setattr(script, part, Lossy(getattr(script, part), name))
    return model


def losses_of(model: Interpreter) -> dict[str, float]:
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    forward = model(inputs, detail="losses")
    torch.testing.assert_close(forward.logits, made()(inputs), rtol=0, atol=0)
    return {name: float(loss) for name, loss in forward.losses.items()}


def test_losses_are_averaged_over_iterations_and_added_over_scripts() -> None:
    """The mean of 1, 2, 3, and of 1, 2; the answers stay as they are."""
    model = with_parts(type_inference="place", router="balance", body="size")
    assert losses_of(model) == {"place": 3.5, "balance": 3.5, "size": 3.5}


def test_losses_of_one_name_are_added() -> None:
    assert losses_of(with_parts(type_inference="same", router="same", body="same")) == {"same": 10.5}


def test_without_losses() -> None:
    assert losses_of(made()) == {}


def test_both_forms_of_an_answer() -> None:
    loss = {"a": torch.tensor(1.0)}
    assert Answer.of(torch.tensor(2.0)) == Answer(torch.tensor(2.0), {}, {})
    assert Answer.of(Answer(torch.tensor(2.0), loss)) == (torch.tensor(2.0), loss, {})
