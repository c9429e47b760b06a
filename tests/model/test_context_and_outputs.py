"""Inputs and heads that return an `Output`, and inputs and bodies that ask for the `Context`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, Context, Head, Input, Output, Pairs
from ni_framework.model.interpreter import Interpreter
from tests.helpers.models import build_tiny_model, first_script, tiny_inputs


class NoisyInput(Input):
    """The inner input plus noise; counts elements in a buffer, and adds a loss."""

    takes_context = True

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.shape, self.num_elements, self.grid = inner.shape, inner.num_elements, inner.grid
        self.register_buffer("count", torch.zeros(()))
        self.contexts: list[Context] = []

    def forward(self, inputs: Tensor, mask_BN: Tensor | None, context: Context | None = None) -> Output:
        assert context is not None
        self.contexts.append(context)
        x_BND = self.inner(inputs, mask_BN)
        noise_BND = context.noise.uniform("input", *x_BND.shape[1:])
        return Output(
            x_BND + noise_BND, {"size": x_BND.new_tensor(2.5)}, {"elements": x_BND.new_tensor(x_BND[..., 0].numel())}
        )

    def update_buffers(self, statistics: Any) -> None:
        self.get_buffer("count").add_(statistics["elements"])


class HeadWithLoss(Head):
    """The inner head, with a loss and a statistic."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.updates: list[float] = []

    def cls_tokens(self, tasks: Sequence[str]) -> tuple[Tensor, int]:
        return self.inner.cls_tokens(tasks)

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> Output:
        logits = self.inner(x_BVD, present_BV, tasks)
        return Output(logits, {"size": x_BVD.new_tensor(0.5)}, {"samples": x_BVD.new_tensor(len(x_BVD))})

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.inner.loss(logits, target)

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return self.inner.metrics(logits, target)

    def update_buffers(self, statistics: Any) -> None:
        self.updates.append(float(statistics["samples"]))


class ContextBody(Body):
    """Adds the number of the iteration to every element."""

    takes_context = True

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.contexts: list[Context] = []

    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs, context: Context | None = None) -> Tensor:
        assert context is not None
        self.contexts.append(context)
        return pairs.dispatch(x_BVD) + context.iteration + torch.zeros_like(pairs.compatibility)


def build_model_with(**parts: Any) -> Interpreter:
    model = build_tiny_model().eval()
    for name, wrap in parts.items():
        setattr(model, name, wrap(getattr(model, name)))
    return model


def test_losses_and_statistics_of_input_and_head() -> None:
    """Losses of the same name are added up; statistics reach `update_buffers` of the component they came from."""
    model, inputs = build_model_with(input=NoisyInput, head=HeadWithLoss), tiny_inputs()
    output = model(inputs, detail="losses")
    assert float(output.losses["size"]) == 3.0
    assert set(output.statistics) == {"input.elements", "head.samples"}
    model.update_buffers(output.statistics)
    assert isinstance(model.input, NoisyInput)
    assert isinstance(model.head, HeadWithLoss)
    assert float(model.input.get_buffer("count")) == len(inputs) * model.input.num_elements
    assert model.head.updates == [len(inputs)]


def test_without_detail_logits_are_the_answer() -> None:
    model, inputs = build_model_with(head=HeadWithLoss), tiny_inputs()
    plain = build_tiny_model().eval()
    for task, logits in plain(inputs).items():
        assert torch.equal(model(inputs)[task], logits), task


def test_noise_of_an_input_depends_on_the_key_alone() -> None:
    model, inputs = build_model_with(input=NoisyInput), tiny_inputs()
    key_B = torch.arange(len(inputs))
    task = next(iter(model.tasks))
    first, again, other = (model(inputs, key=key)[task] for key in (key_B, key_B, key_B + 100))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    half = model(inputs[:1], key=key_B[:1])[task]
    torch.testing.assert_close(half, first[:1], msg="a sample's noise depends on how the batch is split")


def test_the_context_of_an_input_has_its_mask() -> None:
    model, inputs = build_model_with(input=NoisyInput), tiny_inputs()
    mask_BN = torch.rand(len(inputs), model.input.num_elements) < 0.5
    model(inputs, mask_BN)
    assert isinstance(model.input, NoisyInput)
    (context,) = model.input.contexts
    assert context.present_BV is mask_BN
    assert context.iteration == 0


def test_a_body_receives_its_iteration() -> None:
    for execution in ("dense", "packed"):
        model = build_tiny_model(f"model.execution={execution}", "model.iterations=3").eval()
        body = ContextBody().to(next(model.parameters()).dtype)
        first_script(model).body = body
        model(tiny_inputs())
        assert [context.iteration for context in body.contexts] == [0, 1, 2], execution
