"""`GradientOrderer`: DeepSpeed receives gradients in one fixed order, and few are buffered."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from ni_framework import build_model
from ni_framework.engines.base import trainable_parameters
from ni_framework.engines.deepspeed.grad_order import GradientOrderer
from ni_framework.engines.deepspeed.zero_grads import with_zero_grads
from ni_framework.errors import RunError
from ni_framework.model.interpreter import Interpreter
from tests.helpers.small_recipe import load_small_recipe


class FakeZeroOptimizer:
    """The part of DeepSpeed's optimizer that receives gradients; it records them."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def process_gradients(self, parameter: nn.Parameter, group: int) -> None:
        self.received.append(id(parameter))


@pytest.fixture
def model(tmp_path: Path) -> Interpreter:
    return build_model(load_small_recipe(tmp_path, "model.scripts=4"))


def test_release_order_is_independent_of_arrival(model: Interpreter) -> None:
    orders = []
    for seed in range(3):
        optimizer, arrivals = FakeZeroOptimizer(), trainable_parameters(model)
        orderer = GradientOrderer(model, optimizer)
        random.Random(seed).shuffle(arrivals)
        for _ in range(2):
            orderer.start_backward()
            for parameter in arrivals:
                optimizer.process_gradients(parameter, 0)
            orderer.finish_backward()
        first, second = optimizer.received[: len(arrivals)], optimizer.received[len(arrivals) :]
        assert first == second, "two backward passes release gradients in the same order"
        assert first != [*map(id, arrivals)], "the gradients arrived in another order"
        orders.append(optimizer.received)
    assert orders[0] == orders[1] == orders[2], "the order does not depend on the arrivals"


def test_at_most_one_script_is_buffered(model: Interpreter) -> None:
    optimizer = FakeZeroOptimizer()
    orderer = GradientOrderer(model, optimizer)
    buffered_sizes = []

    def on_gradient(parameter: nn.Parameter) -> None:
        optimizer.process_gradients(parameter, 0)
        buffered_sizes.append(sum(arguments[0].numel() for arguments in orderer._buffered.values()))

    for parameter in trainable_parameters(model):
        parameter.register_post_accumulate_grad_hook(on_gradient)
    (logits,) = model(torch.randn(2, 1, 8, 8)).values()
    with_zero_grads(logits.square().sum(), trainable_parameters(model)).backward()
    orderer.finish_backward()
    largest_script = max(sum(parameter.numel() for parameter in script.parameters()) for script in model.scripts)
    assert 0 < max(buffered_sizes) <= largest_script


def test_a_missing_gradient_is_an_error(model: Interpreter) -> None:
    optimizer = FakeZeroOptimizer()
    orderer = GradientOrderer(model, optimizer)
    for name, parameter in model.named_parameters():
        if name != "scripts.1.embedding.code":
            optimizer.process_gradients(parameter, 0)
    with pytest.raises(RunError) as raised:
        orderer.finish_backward()
    assert str(raised.value) == "scripts.1.embedding.code: its gradient did not arrive; report this to ni-framework"
