"""The model compared with the equations in plain loops, in float64: outputs and gradients for every option."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import pytest
import torch
from torch import Tensor

from ni_framework.model import compose
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace
from ni_framework.recipe import Recipe
from tests.helpers import reference_model
from tests.helpers.models import (
    BATCH_SIZE,
    TASKS,
    TINY_RECIPE,
    EmptyData,
    assert_equal_gradients,
    build_with_tasks,
    gradients_by_name,
    load_base_recipe,
    perturb,
    random_inputs,
    weighted_sum,
)

SHORT = "model.iterations=1"
REFERENCE_CASES: dict[str, list[str]] = {
    "plain": [],
    "absolute positions": [SHORT, "model.input.positions=absolute"],
    "other image": ["model.iterations=3", "model.input.image=[3, 4, 10]", "model.input.patch=2", "model.body.heads=1"],
    "shared cls": ["model.head.shared_cls=true", "model.iterations=3"],
    "shared positions and cls": [SHORT, "model.body.positions=shared", "model.head.shared_cls=true"],
    "dot": [SHORT, "model.body.positions=dot"],
    "sep_sum": [SHORT, "model.body.positions=sep_sum"],
    "seq_sum": [SHORT, "model.body.positions=seq_sum"],
    "three lines": [SHORT, "model.body.lines=3", "model.body.positions=sep_sum"],
    "hidden width as the elements": [SHORT, "model.body.hidden=null"],
    "shallow types": [SHORT, "model.type_inference.depth=1"],
    "deep types": [SHORT, "model.type_inference.depth=4"],
    "sum": ["model.pooling=sum", "model.iterations=3", "model.router.truncation=0.8"],
    "delta with orphans": ["model.iterations=3", "model.router.truncation=0.8"],
    "all open": [SHORT, "model.router.truncation=2"],
    "narrow bandwidth": [SHORT, "model.router.bandwidth=0.2"],
    "scripts alike": ["model.scripts=3", SHORT],
    "scripts that differ": [
        "model.scripts=[{iterations: 1}, {functions: 5, iterations: 3, code: 16, type: 12, pooling: sum}]",
    ],
    "narrow keys": [SHORT, "model.body.key=2", "model.body.positions=sep_sum", "model.head.shared_cls=true"],
    "gating": ["model.pooling=gating", "model.iterations=2", "model.router.truncation=0.8"],
    "temporary elements": ["model.registers=2", "model.iterations=2", "model.body.positions=sep_sum"],
    "positions before every line": ["model.body.positions=absolute", "model.body.lines=2", "model.iterations=2"],
    "positions and temporary elements": [SHORT, "model.body.positions=absolute", "model.registers=3"],
    "line with gating": ["model.body.residual=gating", "model.body.lines=2", "model.iterations=2"],
    "line with vanilla": ["model.body.residual=vanilla", "model.body.lines=2", "model.iterations=2"],
    "biased queries and keys": [SHORT, "model.body.bias=true"],
    "plain maps": [SHORT, "model.body.linear=plain"],
    "gated maps": [SHORT, "model.body.linear=gated"],
    "hyper maps": [SHORT, "model.body.linear={use: hyper, hidden: 5}", "model.body.lines=2", "model.body.bias=true"],
    "consolidated": [
        SHORT,
        "model.embedding={use: consolidated, width: 16, hidden: 12}",
        "model.router.truncation=0.6",
    ],
    "consolidated, shallow": [SHORT, "model.embedding={use: consolidated, depth: 1}", "model.router.truncation=0.6"],
    "unnormalised": ["model.router={use: unnormalised_kernel, truncation: 0.9}", "model.iterations=2"],
    "quantised": [
        "model.router={use: quantised, size: 12, inner: {use: kernel, truncation: 0.9}}",
        "model.iterations=2",
    ],
    "quantised types": [
        SHORT,
        "model.router={use: quantised, size: 12, what: types, inner: {use: kernel, truncation: 0.9}}",
    ],
    "quantised signatures": [
        SHORT,
        "model.router={use: quantised, size: 12, what: signatures, inner: {use: kernel, truncation: 0.9}}",
    ],
    "function dropout": [
        SHORT,
        "model.router={use: function_dropout, keep: 0.6, inner: {use: kernel, truncation: 0.9}}",
    ],
    "gumbel": [SHORT, "model.router={use: gumbel_kernel, truncation: 0.9}"],
    "stochastic": [SHORT, "model.router={use: stochastic_kernel, truncation: 0.9}"],
    "stochastic with a threshold": [
        "model.router={use: stochastic_kernel, truncation: 1.2, bandwidth: 1.4, evaluation: threshold}",
        SHORT,
    ],
}
DENSE_CASES = {
    "straight through": ["model.iterations=2", "model.router={use: straight_through_kernel, truncation: 0.9}"]
}
ONE_CLASS_NUMBER = {"shape": 13, "colour": 13, "size": 13}


def build_perturbed(overrides: list[str], tasks: dict[str, int] = TASKS) -> tuple[Recipe, Interpreter, Tensor]:
    recipe = load_base_recipe(*overrides)
    return recipe, perturb(build_with_tasks(recipe, tasks)).eval(), random_inputs(recipe)


def state_dict_of(model: Interpreter) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def assert_equals_reference(
    recipe: Recipe, model: Interpreter, inputs: Tensor, tasks: dict[str, int], mask: Tensor | None = None
) -> reference_model.ReferenceOutput:
    """Logits, compatibilities, outputs and all gradients agree with the reference, which is returned."""
    expected = reference_model.run_reference(recipe, state_dict_of(model), inputs, tasks, mask)
    expected_gradients = gradients_by_name(model, weighted_sum(expected.logits))
    model_trace = trace(model, inputs, mask)
    copies = len(tasks) - 1 if recipe.model.head.options.shared_cls else 0
    for task in tasks:
        torch.testing.assert_close(model_trace.logits[task], expected.logits[task].detach(), rtol=1e-11, atol=1e-12)
    for traced, reference in zip(model_trace.compatibility, expected.compatibility, strict=True):
        for c_BUV, copied_BUV in zip(traced, reference, strict=True):
            reference_BUV = copied_BUV[:, :, copies:]
            present = ~reference_BUV.isnan()
            torch.testing.assert_close(c_BUV[present], reference_BUV[present], rtol=1e-11, atol=1e-12)
            assert not c_BUV[~present].any()
    for traced_BVD, copied_BVD in zip(model_trace.outputs, expected.outputs, strict=True):
        reference_BVD = copied_BVD[:, copies:]
        present = ~reference_BVD.isnan()
        torch.testing.assert_close(traced_BVD[present], reference_BVD[present], rtol=1e-11, atol=1e-12)
    assert_equal_gradients(gradients_by_name(model, weighted_sum(model(inputs, mask))), expected_gradients)
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["dense", "packed"])
@pytest.mark.parametrize("name", REFERENCE_CASES)
def test_model_is_the_equations(name: str, execution: str) -> None:
    recipe, model, inputs = build_perturbed([*REFERENCE_CASES[name], f"model.execution={execution}"])
    expected = assert_equals_reference(recipe, model, inputs, TASKS)
    opened = torch.cat([(c_BUV > 0).flatten() for row in expected.compatibility for c_BUV in row])
    if name == "all open":
        assert bool(opened.all())
    else:
        assert 0.1 < opened.double().mean() < 1


@pytest.mark.slow
def test_straight_through_is_the_equations() -> None:
    """Its closed pairs pass gradient, so that it runs only in the dense layout."""
    recipe, model, inputs = build_perturbed(DENSE_CASES["straight through"])
    expected = assert_equals_reference(recipe, model, inputs, TASKS)
    assert bool((expected.compatibility[0][0] == 0).any())


@pytest.mark.slow
def test_entities_are_the_equations() -> None:
    text = TINY_RECIPE.replace(
        "{use: patches, image: [1, 6, 4], patch: 2}", "{use: entities, entities: 6, features: 5, %s}"
    )
    for positions in ("none", "absolute"):
        recipe = load_base_recipe(text=text % f"positions: {positions}")
        with mock.patch.object(compose, "build_data", return_value=EmptyData((6, 5), TASKS)):
            model = perturb(compose.build_model(recipe)).eval()
        inputs = torch.randn(BATCH_SIZE, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        assert_equals_reference(recipe, model, inputs, TASKS)
        mask = torch.tensor([[True, False, True, True, False, True], [True] * 6])
        assert_equals_reference(recipe, model, inputs, TASKS, mask)


@pytest.mark.parametrize("pooling", ["delta", "sum"])
def test_some_elements_of_the_cases_have_no_function(pooling: str) -> None:
    """With a truncation of 0.7, some elements have no function, so that the two poolings differ."""
    _, model, inputs = build_perturbed([f"model.pooling={pooling}", "model.router.truncation=0.7"])
    first = trace(model, inputs).compatibility[0][0]
    orphans = (first == 0).all(dim=1)
    assert 0 < orphans.sum() < orphans.numel()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["model.pooling=delta", "model.body.positions=sep_sum"],
        ["model.pooling=sum", "model.body.positions=sep_sum"],
        ["model.registers=2", "model.body.positions=absolute"],
        ["model.router={use: quantised, size: 9, inner: {use: kernel, truncation: 0.9}}"],
    ],
)
def test_masked_elements_are_ignored(overrides: list[str]) -> None:
    recipe, model, inputs = build_perturbed([*overrides, "model.iterations=3"])
    mask = torch.tensor([[True, False, True, True, False, True], [True] * 4 + [False] * 2])
    assert_equals_reference(recipe, model, inputs, TASKS, mask)


@pytest.mark.slow
@pytest.mark.parametrize("cls", ["true", "false"])
def test_shared_head(cls: str) -> None:
    recipe, model, inputs = build_perturbed(
        [SHORT, "model.head.shared_head=true", f"model.head.shared_cls={cls}"], ONE_CLASS_NUMBER
    )
    assert len(model.head.maps) == 1  # pyright: ignore[reportArgumentType]
    assert_equals_reference(recipe, model, inputs, ONE_CLASS_NUMBER)


@pytest.mark.slow
def test_shared_cls_of_three_tasks_with_masks() -> None:
    """The reference copies the CLS element once for each task, and every copy is a key."""
    tasks = {"shape": 13, "colour": 14, "size": 16}
    recipe, model, inputs = build_perturbed(
        ["model.head.shared_cls=true", "model.iterations=3", "model.execution=packed"], tasks
    )
    assert model.head.cls_tokens(tuple(tasks))[1] == 3
    assert_equals_reference(
        recipe, model, inputs, tasks, torch.tensor([[True] * 5 + [False], [False] * 2 + [True] * 4])
    )


def test_sizes_of_the_base_recipe_all_differ() -> None:
    """Otherwise a transposed tensor could have the right shape."""
    recipe, model, inputs = build_perturbed([])
    body = recipe.model.body.options
    sizes = [len(inputs), model.input.num_elements + 2, recipe.model.width, recipe.model.functions, recipe.model.code]
    sizes += [recipe.model.type, recipe.model.iterations, body.heads, body.key, body.hidden, *TASKS.values()]
    assert all(one < other for one, other in pairwise(sorted(sizes)))
