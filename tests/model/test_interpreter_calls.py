"""Calls of a built model: other numbers of iterations, some of its tasks, and the details of a forward pass."""

from __future__ import annotations

import pytest
import torch

from ni_framework.model.trace import trace
from tests.helpers.models import TASKS, build_tiny_model, tiny_inputs

THREE_TASKS = {"shape": 13, "colour": 14, "size": 16}


def test_iterations_can_be_changed_after_construction() -> None:
    """A model with other iterations is the model built with them: no weight belongs to an iteration."""
    model, other = build_tiny_model(), build_tiny_model("model.iterations=5")
    assert model.iterations == (3,)
    before = model(tiny_inputs())
    model.iterations = 5
    assert model.iterations == (5,)
    assert len(trace(model, tiny_inputs()).compatibility[0]) == 5
    torch.testing.assert_close(model(tiny_inputs()), other(tiny_inputs()), rtol=0, atol=0)
    model.iterations = 3
    torch.testing.assert_close(model(tiny_inputs()), before, rtol=0, atol=0)


def test_iterations_of_each_script() -> None:
    model = build_tiny_model("model.scripts=[{}, {iterations: 2, functions: 5}]")
    assert model.iterations == (3, 2)
    model.iterations = [1, 4]
    other = build_tiny_model("model.scripts=[{iterations: 1}, {iterations: 4, functions: 5}]")
    torch.testing.assert_close(model(tiny_inputs()), other(tiny_inputs()), rtol=0, atol=0)
    assert [len(script) for script in trace(model, tiny_inputs()).states] == [1, 4]
    model.iterations = 2
    assert model.iterations == (2, 2)


@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize("chosen", [["size", "shape"], ["colour"], ["size", "colour", "shape"]])
def test_some_tasks_are_a_model_of_these_tasks(chosen: list[str], shared: str) -> None:
    """In the requested order. A shared CLS element then counts once for each requested task."""
    full = build_tiny_model(f"model.head.shared_cls={shared}", tasks=THREE_TASKS)
    partial = build_tiny_model(f"model.head.shared_cls={shared}", tasks={task: THREE_TASKS[task] for task in chosen})
    state, places = full.state_dict(), [list(THREE_TASKS).index(task) for task in chosen]
    kept = {name: value for name, value in state.items() if not name.startswith("head.maps.")}
    if shared == "false":
        kept["head.cls"] = state["head.cls"][places]
    for new, old in enumerate(places):
        for name, value in state.items():
            if name.startswith(f"head.maps.{old}."):
                kept[name.replace(f"head.maps.{old}.", f"head.maps.{new}.")] = value
    partial.load_state_dict(kept)
    logits = full(tiny_inputs(), tasks=chosen)
    assert list(logits) == chosen
    torch.testing.assert_close(logits, partial(tiny_inputs()), rtol=1e-12, atol=1e-13)


def test_requested_tasks_influence_each_other() -> None:
    """Without a shared CLS element, the logits of a task depend on the other requested tasks: all CLS elements attend."""
    model = build_tiny_model("model.router.truncation=2")
    alone, together = model(tiny_inputs(), tasks=["shape"])["shape"], model(tiny_inputs())["shape"]
    assert (alone - together).detach().abs().max() > 1e-6


def test_detail() -> None:
    model = build_tiny_model()
    logits = model(tiny_inputs())
    assert list(logits) == list(TASKS)
    losses, traced = model(tiny_inputs(), detail="losses"), model(tiny_inputs(), detail="trace")
    for forward in (losses, traced):
        torch.testing.assert_close(forward.logits, logits, rtol=0, atol=0)
        assert forward.losses == {}
    assert [len(script_output.compatibility) for script_output in losses.script_outputs] == [0]
    assert [len(script_output.compatibility) for script_output in traced.script_outputs] == [3]
    torch.testing.assert_close(traced.script_outputs[0].state[-1], traced.script_outputs[0].output_BVD, rtol=0, atol=0)


def test_trace_does_not_change_the_model() -> None:
    model = build_tiny_model().train()
    traced = trace(model, tiny_inputs(), tasks=["colour"])
    assert model.training
    assert list(traced.logits) == ["colour"]
    assert not traced.logits["colour"].requires_grad
    assert traced.outputs[0].shape == (2, 7, 8)
