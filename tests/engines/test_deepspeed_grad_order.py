"""Gradients are taken in one order, and few are held back for it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from ni_framework import build_model
from ni_framework.engines.base import trainable
from ni_framework.engines.deepspeed.grad_order import InOrder
from ni_framework.engines.deepspeed.zero_grads import tied
from ni_framework.errors import RunError
from ni_framework.model.interpreter import Interpreter
from tests.helpers.small_recipe import small_recipe


class Taking:
    """DeepSpeed's optimizer, as far as it takes gradients."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def process_gradients(self, parameter: nn.Parameter, group: int) -> None:
        self.taken.append(id(parameter))


@pytest.fixture
def model(tmp_path: Path) -> Interpreter:
    return build_model(small_recipe(tmp_path, "model.scripts=4"))


def test_whatever_comes_first(model: Interpreter) -> None:
    orders = []
    for seed in range(3):
        optimizer, coming = Taking(), trainable(model)
        in_order = InOrder(model, optimizer)
        random.Random(seed).shuffle(coming)
        for _ in range(2):
            in_order.restart()
            for parameter in coming:
                optimizer.process_gradients(parameter, 0)
            in_order.end()
        half = len(coming)
        assert optimizer.taken[:half] == optimizer.taken[half:] != [*map(id, coming)]
        orders.append(optimizer.taken)
    assert orders[0] == orders[1] == orders[2]


def test_no_more_than_a_script_is_held_back(model: Interpreter) -> None:
    optimizer = Taking()
    in_order = InOrder(model, optimizer)
    held = []

    def come(parameter: nn.Parameter) -> None:
        optimizer.process_gradients(parameter, 0)
        held.append(sum(waiting[0].numel() for waiting in in_order._held.values()))

    for parameter in trainable(model):
        parameter.register_post_accumulate_grad_hook(come)
    (logits,) = model(torch.randn(2, 1, 8, 8)).values()
    tied(logits.square().sum(), trainable(model)).backward()
    in_order.end()
    largest = max(sum(parameter.numel() for parameter in script.parameters()) for script in model.scripts)
    assert 0 < max(held) <= largest


def test_a_gradient_that_does_not_come(model: Interpreter) -> None:
    optimizer = Taking()
    in_order = InOrder(model, optimizer)
    for name, parameter in model.named_parameters():
        if name != "scripts.1.embedding.code":
            optimizer.process_gradients(parameter, 0)
    with pytest.raises(RunError) as raised:
        in_order.end()
    assert str(raised.value) == "scripts.1.embedding.code: no gradient of it came; report it to ni-framework"
