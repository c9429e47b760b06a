"""How a built model is used: other numbers of iterations, parts of its tasks, details of a forward."""

from __future__ import annotations

import pytest
import torch

from ni_framework.model.trace import trace
from tests.helpers.models import TASKS, tiny_inputs, tiny_of

THREE = {"shape": 13, "colour": 14, "size": 16}


def test_iterations_can_be_changed_after_construction() -> None:
    """A model with other iterations is the model built with them: no weight belongs to an iteration."""
    model, other = tiny_of(), tiny_of("model.iterations=5")
    assert model.iterations == (3,)
    before = model(tiny_inputs())
    model.iterations = 5
    assert model.iterations == (5,)
    assert len(trace(model, tiny_inputs()).compatibility[0]) == 5
    torch.testing.assert_close(model(tiny_inputs()), other(tiny_inputs()), rtol=0, atol=0)
    model.iterations = 3
    torch.testing.assert_close(model(tiny_inputs()), before, rtol=0, atol=0)


def test_iterations_of_each_script() -> None:
    model = tiny_of("model.scripts=[{}, {iterations: 2, functions: 5}]")
    assert model.iterations == (3, 2)
    model.iterations = [1, 4]
    other = tiny_of("model.scripts=[{iterations: 1}, {iterations: 4, functions: 5}]")
    torch.testing.assert_close(model(tiny_inputs()), other(tiny_inputs()), rtol=0, atol=0)
    assert [len(script) for script in trace(model, tiny_inputs()).states] == [1, 4]
    model.iterations = 2
    assert model.iterations == (2, 2)


@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize("chosen", [["size", "shape"], ["colour"], ["size", "colour", "shape"]])
def test_some_tasks_are_a_model_of_these_tasks(chosen: list[str], shared: str) -> None:
    """In the order given; a shared CLS then counts as often as there are tasks asked for."""
    whole = tiny_of(f"model.head.shared_cls={shared}", tasks=THREE)
    part = tiny_of(f"model.head.shared_cls={shared}", tasks={task: THREE[task] for task in chosen})
    state, places = whole.state_dict(), [list(THREE).index(task) for task in chosen]
    kept = {name: value for name, value in state.items() if not name.startswith("head.maps.")}
    if shared == "false":
        kept["head.cls"] = state["head.cls"][places]
    for new, old in enumerate(places):
        for name, value in state.items():
            if name.startswith(f"head.maps.{old}."):
                kept[name.replace(f"head.maps.{old}.", f"head.maps.{new}.")] = value
    part.load_state_dict(kept)
    found = whole(tiny_inputs(), tasks=chosen)
    assert list(found) == chosen
    torch.testing.assert_close(found, part(tiny_inputs()), rtol=1e-12, atol=1e-13)


def test_other_tasks_take_part() -> None:
    """With own CLS elements the answer to one task depends on which others are asked for, because all are elements."""
    model = tiny_of("model.router.truncation=2")
    alone, together = model(tiny_inputs(), tasks=["shape"])["shape"], model(tiny_inputs())["shape"]
    assert (alone - together).detach().abs().max() > 1e-6


def test_detail() -> None:
    model = tiny_of()
    logits = model(tiny_inputs())
    assert list(logits) == list(TASKS)
    losses, traced = model(tiny_inputs(), detail="losses"), model(tiny_inputs(), detail="trace")
    for forward in (losses, traced):
        torch.testing.assert_close(forward.logits, logits, rtol=0, atol=0)
        assert forward.losses == {}
    assert [len(passage.compatibility) for passage in losses.passages] == [0]
    assert [len(passage.compatibility) for passage in traced.passages] == [3]
    torch.testing.assert_close(traced.passages[0].state[-1], traced.passages[0].output_BVD, rtol=0, atol=0)


def test_trace_leaves_the_model_as_it_was() -> None:
    model = tiny_of().train()
    found = trace(model, tiny_inputs(), tasks=["colour"])
    assert model.training
    assert list(found.logits) == ["colour"]
    assert not found.logits["colour"].requires_grad
    assert found.outputs[0].shape == (2, 7, 8)
