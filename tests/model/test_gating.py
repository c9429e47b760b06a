"""Functions that growth adds with gates: they change nothing at first; the gradients of gates; and the rows of functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework import build_model, trace
from ni_framework.errors import RecipeError
from ni_framework.growth.transplant import FunctionRef, infer_function_rows, transfer_weights
from ni_framework.model.gating import compose_routing
from ni_framework.model.interpreter import Interpreter
from ni_framework.nn.kernel import normalise_kernel
from ni_framework.nn.layouts import packed as packed_file
from ni_framework.registry import load_recipe_text
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

ADDED_FUNCTIONS = (
    "model.added_functions=[{functions: 2}, {functions: 1, body: {use: lines_of_code, lines: 2, heads: 3, key: 2}}]"
)
GATING_VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "narrow": ["model.router.truncation=0.9"],
    "sum": ["model.pooling=sum"],
    "gating": ["model.pooling=gating"],
    "unnormalised": ["model.router=unnormalised_kernel"],
    "straight_through": ["model.router=straight_through_kernel"],
    "quantised": ["model.router=quantised"],
    "dropout": ["model.router=function_dropout"],
    "always_open": ["model.router=always_open"],
    "gumbel": ["model.router=gumbel_kernel"],
    "stochastic": ["model.router=stochastic_kernel"],
    "consolidated": ["model.embedding=consolidated"],
    "experts": ["model.body={use: experts, heads: 2, key: 3}"],
    "positions": ["model.body.positions=sep_sum"],
    "act": ["model.halting=act"],
    "temporary": ["model.registers=2"],
    "two scripts": ["model.scripts=2"],
}
# Their closed pairs pass gradient, so that they cannot run packed.
STRAIGHT_THROUGH_VARIANTS = {"straight_through"}
# Their body has tensors with rows for each function, which are multiplied for all functions at once. A processor may round
# this differently once there are more functions.
PER_FUNCTION_BODY_VARIANTS = {"experts"}


def build_with_and_without_added(*overrides: str, added: str = ADDED_FUNCTIONS) -> tuple[Interpreter, Interpreter]:
    """A model, and the same with functions added, both in evaluation mode."""
    before, now = (
        load_recipe_text(SMALL_RECIPE_YAML, overrides),
        load_recipe_text(SMALL_RECIPE_YAML, [*overrides, added]),
    )
    old, new = build_model(before), build_model(now)
    old_rows, new_rows = infer_function_rows(before), infer_function_rows(now)
    origins = {function: function for functions in old_rows.rows.values() for function in functions}
    new.load_state_dict(transfer_weights(old.state_dict(), old_rows, new.state_dict(), new_rows, origins))
    return old.eval(), new.eval()


def random_image_batch(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["dense", "packed", "auto"])
@pytest.mark.parametrize("variant", GATING_VARIANTS)
def test_adding_changes_nothing(variant: str, execution: str) -> None:
    """Outputs are bit-identical without gradients, and equal up to rounding where gates get a gradient."""
    if execution == "packed" and variant in STRAIGHT_THROUGH_VARIANTS:
        pytest.skip("rejected: closed pairs pass gradient")
    old, new = build_with_and_without_added(f"model.execution={execution}", *GATING_VARIANTS[variant])
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[::2, 2:] = False
    for mask_BN in (None, mask):
        with torch.no_grad():
            before, now = (model(random_image_batch(), mask_BN)["digits"] for model in (old, new))
        if variant in PER_FUNCTION_BODY_VARIANTS:
            torch.testing.assert_close(before, now, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(before, now), f"not bit-identical {'with' if mask_BN is not None else 'without'} a mask"
    old, new = old.double(), new.double()
    for mask_BN in (None, mask):
        before, now = (model(random_image_batch(torch.float64), mask_BN)["digits"] for model in (old, new))
        torch.testing.assert_close(before, now, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.0, 0.3, 1.0])
def test_adding_does_not_change_the_layout(monkeypatch: pytest.MonkeyPatch, bound: float) -> None:
    """With `execution: auto`, skipped functions do not count as closed pairs."""
    monkeypatch.setitem(packed_file.BREAK_EVEN, "cpu", bound)
    old, new = build_with_and_without_added("model.execution=auto", "model.router.truncation=0.9")
    assert trace(old, random_image_batch()).packed == trace(new, random_image_batch()).packed


def build_with_gate(*overrides: str, gate: float, added: str = ADDED_FUNCTIONS) -> Interpreter:
    _, new = build_with_and_without_added(*overrides, added=added)
    for script in new.scripts:
        assert script.gates is not None
        torch.nn.init.constant_(script.gates, gate)
    return new.double()


@pytest.mark.slow
@pytest.mark.parametrize("gate", [0.3, 1.0, -0.2])
def test_layouts_agree(gate: float) -> None:
    """Dense and packed, forward and backward, with functions of three generations and two bodies."""
    outputs, gradients = [], []
    for execution in ("dense", "packed"):
        model = build_with_gate("model.router.truncation=0.9", f"model.execution={execution}", gate=gate)
        logits = model(random_image_batch(torch.float64))["digits"]
        logits.square().sum().backward()
        outputs.append(logits.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_activation_checkpointing_keeps_gradients() -> None:
    gradients = {}
    for mode in ("none", "iteration", "script"):
        model = build_with_gate(gate=0.4).train()
        for script in model.scripts:
            script.activation_checkpointing = mode
        model(random_image_batch(torch.float64))["digits"].square().sum().backward()
        gradients[mode] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for mode in ("iteration", "script"):
        torch.testing.assert_close(gradients[mode], gradients["none"], rtol=0, atol=1e-12)


def test_open_gates_are_the_papers_kernel() -> None:
    """c_ui = k_ui / (eps + sum_u k_ui) over all functions, whichever growth added them."""
    kernel_BUV = torch.rand(2, 6, 5, dtype=torch.float64).clamp_min(0.3) - 0.3
    compatibilities = [normalise_kernel(kernel_BUV[:, :number]) for number in (3, 5, 6)]
    routing = compose_routing(compatibilities, torch.ones(3, dtype=torch.float64), True)
    torch.testing.assert_close(routing.pool_weight_BUV, normalise_kernel(kernel_BUV), rtol=0, atol=1e-12)
    assert torch.equal(routing.compatibility_BUV[:, :3], compatibilities[0])
    assert torch.equal(routing.compatibility_BUV[:, 3:5], compatibilities[1][:, 3:])
    assert torch.equal(routing.compatibility_BUV[:, 5:], compatibilities[2][:, 5:])


def test_pool_weights_sum_to_at_most_one() -> None:
    gates_G = torch.rand(3, dtype=torch.float64)
    kernel_BUV = torch.rand(4, 6, 5, dtype=torch.float64)
    compatibilities = [normalise_kernel(kernel_BUV[:, :number]) for number in (3, 5, 6)]
    assert compose_routing(compatibilities, gates_G, True).pool_weight_BUV.sum(dim=1).max() <= 1
    # Without normalisation, the weights of old functions do not change.
    unnormalised = [kernel_BUV[:, :number] for number in (3, 5, 6)]
    assert torch.equal(compose_routing(unnormalised, gates_G, False).pool_weight_BUV[:, :3], kernel_BUV[:, :3])


def weighted_sum_gradients(model: Interpreter) -> dict[str, Tensor]:
    model.zero_grad()
    model(random_image_batch(torch.float64))["digits"].square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_gradient_of_a_gate_depends_on_its_function(execution: str) -> None:
    """Its first gradient depends on the function's code; code and signature get a gradient once the gate is not 0."""
    _, new = build_with_and_without_added(
        f"model.execution={execution}", added="model.added_functions=[{functions: 2}]"
    )
    new = new.double()
    (script,) = new.scripts
    first = weighted_sum_gradients(new)
    assert (first["scripts.0.gates"] != 0).all()
    for name in ("scripts.0.embedding.code", "scripts.0.embedding.signature"):
        assert not first[name][3:].any()
        assert first[name][:3].any()
    with torch.no_grad():
        code: Any = script.embedding.code
        code[3] += 0.5
    second = weighted_sum_gradients(new)
    assert second["scripts.0.gates"][0] != first["scripts.0.gates"][0]
    assert torch.allclose(second["scripts.0.gates"][1], first["scripts.0.gates"][1], rtol=0, atol=1e-12)
    with torch.no_grad():
        gates: Any = script.gates
        gates -= 1e-2 * first["scripts.0.gates"].sign()
    third = weighted_sum_gradients(new)
    for name in ("scripts.0.embedding.code", "scripts.0.embedding.signature"):
        assert third[name][3:].any(dim=1).all(), f"an added function has no gradient of {name}"


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["separate", "consolidated"])
@pytest.mark.parametrize(
    ("added", "with_gradients"),
    [
        ("[{functions: 2, tasks: [letters]}, {functions: 1}]", False),
        ("[{functions: 2, tasks: [letters]}]", False),
        ("[{functions: 2, tasks: [letters]}]", True),
    ],
)
def test_functions_of_a_task_are_skipped_without_it(added: str, with_gradients: bool, embedding: str) -> None:
    """The outputs of other tasks stay bit-identical, whatever was learned for the new task."""
    overrides = [
        "model.tasks={digits: 10, letters: 26}",
        "model.added_tasks=[letters]",
        f"model.embedding={embedding}",
    ]
    old = build_model(load_recipe_text(SMALL_RECIPE_YAML, overrides)).eval()
    new = build_model(load_recipe_text(SMALL_RECIPE_YAML, [*overrides, f"model.added_functions={added}"])).eval()
    state = new.state_dict()
    for name, value in old.state_dict().items():
        (state[name][: len(value)] if value.ndim else state[name]).copy_(value)
    (script,) = new.scripts
    assert script.gates is not None
    with torch.no_grad():
        script.gates[:2] = 0.7
    images = random_image_batch()
    with torch.set_grad_enabled(with_gradients):
        assert torch.equal(old(images, tasks=["digits"])["digits"], new(images, tasks=["digits"])["digits"])
    assert not torch.equal(old(images, tasks=["letters"])["letters"], new(images, tasks=["letters"])["letters"])
    # If both tasks are requested, their CLS elements attend to each other.
    assert not torch.equal(old(images)["digits"], new(images)["digits"])
    for pool_weight_BUV in trace(new, images, tasks=["digits"]).compatibility[0]:
        assert pool_weight_BUV.shape[1] == script.num_functions
        assert not pool_weight_BUV[:, 3:].any(), "a skipped function has a pool weight"


@pytest.mark.parametrize("router", ["top_k", "expert_choice", "{use: function_dropout, inner: top_k}"])
def test_router_with_fixed_number_of_functions_rejects_added_ones(router: str) -> None:
    recipe = load_recipe_text(SMALL_RECIPE_YAML, [f"model.router={router}", "model.added_functions=[{functions: 1}]"])
    name = "function_dropout" if "dropout" in router else router
    with pytest.raises(RecipeError) as caught:
        build_model(recipe)
    assert (
        str(caught.value)
        .splitlines()[0]
        .endswith(
            f"model.added_functions: the router, {name}, fixes how many functions an element gets, so none can be added"
        )
    )
    assert "use a router whose compatibilities are free, as `kernel`" in str(caught.value)


def test_unknown_task_of_added_functions_is_rejected() -> None:
    with pytest.raises(RecipeError, match=r"model\.added_functions\.0\.tasks: there is no task 'x'"):
        build_model(load_recipe_text(SMALL_RECIPE_YAML, ["model.added_functions=[{functions: 1, tasks: [x]}]"]))


def test_rows_of_functions_are_inferred() -> None:
    """From how tensors grow and not from their sizes: here the width equals the number of functions. Covers every script."""
    names = {"scripts.0.embedding.signature", "scripts.0.embedding.code"}
    assert infer_function_rows(load_recipe_text(SMALL_RECIPE_YAML, ["model.functions=12"])).rows.keys() == names
    both = infer_function_rows(
        load_recipe_text(SMALL_RECIPE_YAML, ["model.scripts=[{}, {functions: 1, embedding: consolidated}]"])
    )
    assert both.rows.keys() == names | {"scripts.1.embedding.table"}
    function_rows = infer_function_rows(load_recipe_text(SMALL_RECIPE_YAML, [ADDED_FUNCTIONS]))
    functions = [FunctionRef(0, number) for number in range(6)]
    assert function_rows.rows == {
        "scripts.0.embedding.signature": functions,
        "scripts.0.embedding.code": functions,
        "scripts.0.gates": functions[3:],
    }
    assert function_rows.own_body_paths == {functions[5]: "scripts.0.bodies.0"}
    experts = infer_function_rows(
        load_recipe_text(SMALL_RECIPE_YAML, ["model.body={use: experts, heads: 2, key: 3}", ADDED_FUNCTIONS])
    )
    assert {tuple(rows) for name, rows in experts.rows.items() if ".body." in name} == {tuple(functions[:5])}
