"""Properties of every model: order of functions, elements and samples, elements without functions, and finite numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ni_framework.model.trace import trace
from tests.helpers.models import TINY_RECIPE as TINY_TEXT
from tests.helpers.models import (
    FixedRouter,
    build_tiny_model,
    build_with_tasks,
    first_script,
    gradients_by_name,
    load_base_recipe,
    tiny_inputs,
    weighted_sum,
)

# Without shrinking, which takes minutes.
EXAMPLES = settings(derandomize=True, max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
LAYOUTS = st.sampled_from(["model.execution=dense", "model.execution=packed"])
POOLINGS = st.sampled_from(["model.pooling=delta", "model.pooling=sum"])
POSITIONS = st.sampled_from([f"model.body.positions={mixing}" for mixing in ("none", "dot", "sep_sum", "seq_sum")])


def random_states(batch: int, elements: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, elements, 8, generator=generator, dtype=torch.float64)


@pytest.mark.slow
@EXAMPLES
@given(order=st.permutations(range(4)), layout=LAYOUTS, pooling=POOLINGS, mixing=POSITIONS)
def test_order_of_functions_does_not_matter(order: list[int], layout: str, pooling: str, mixing: str) -> None:
    """Compatibilities follow the rows of signature and code; logits and outputs are the same."""
    model, inputs = build_tiny_model(layout, pooling, mixing), tiny_inputs()
    before = trace(model, inputs)
    with torch.no_grad():
        script = first_script(model)
        script.embedding.signature.copy_(script.embedding.signature[order])
        script.embedding.code.copy_(script.embedding.code[order])
    after = trace(model, inputs)
    for one, other in zip(before.compatibility[0], after.compatibility[0], strict=True):
        torch.testing.assert_close(one[:, order], other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(before.outputs, after.outputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(before.logits, after.logits, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@EXAMPLES
@given(order=st.permutations(range(7)), layout=LAYOUTS, pooling=POOLINGS)
def test_order_of_elements_permutes_the_output(order: list[int], layout: str, pooling: str) -> None:
    """Without positions, a script does not depend on places."""
    script, x_BVD = first_script(build_tiny_model(layout, pooling)), random_states(2, 7, 3)
    before, after = script(x_BVD, trace=True), script(x_BVD[:, order], trace=True)
    torch.testing.assert_close(before.output_BVD[:, order], after.output_BVD, rtol=1e-10, atol=1e-12)
    for one, other in zip(before.compatibility, after.compatibility, strict=True):
        torch.testing.assert_close(one[:, :, order], other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mixing", ["shared", "dot", "sep_sum", "seq_sum"])
def test_positions_distinguish_places(mixing: str) -> None:
    script, x_BVD = first_script(build_tiny_model(f"model.body.positions={mixing}")), random_states(2, 7, 3)
    order = [0, 2, 1, 3, 4, 5, 6]
    difference = script(x_BVD[:, order]).output_BVD - script(x_BVD).output_BVD[:, order]
    assert difference.detach().abs().max() > 1e-4


@pytest.mark.slow
@EXAMPLES
@given(layout=LAYOUTS, pooling=POOLINGS, mixing=POSITIONS, seed=st.integers(0, 99))
def test_samples_are_independent(layout: str, pooling: str, mixing: str, seed: int) -> None:
    model, inputs = build_tiny_model(layout, pooling, mixing), tiny_inputs(3, seed)
    together = model(inputs)
    for sample in range(3):
        alone = model(inputs[sample : sample + 1])
        for task, logits in alone.items():
            torch.testing.assert_close(together[task][sample], logits[0], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@EXAMPLES
@given(orphans=st.sets(st.integers(0, 6), max_size=6), layout=LAYOUTS)
def test_elements_without_functions(orphans: set[int], layout: str) -> None:
    """Delta keeps them exactly, sum sets them to zero; no other element is zero or unchanged."""
    opened_BUV = torch.ones(2, 4, 7, dtype=torch.bool)
    opened_BUV[:, :, list(orphans)] = False
    others = [element for element in range(7) if element not in orphans]
    x_BVD = random_states(2, 7, 5)
    for pooling, unchanged_BVD in (("delta", x_BVD), ("sum", torch.zeros_like(x_BVD))):
        script = first_script(build_tiny_model(layout, f"model.pooling={pooling}"))
        script.router = FixedRouter(opened_BUV)
        output_BVD = script(x_BVD).output_BVD.detach()
        assert torch.equal(output_BVD[:, list(orphans)], unchanged_BVD[:, list(orphans)])
        assert bool((output_BVD[:, others] != x_BVD[:, others]).any(dim=-1).all())
        assert bool(output_BVD[:, others].any(dim=-1).all())


@pytest.mark.slow
@EXAMPLES
@given(layout=LAYOUTS, seed=st.integers(0, 99))
def test_delta_is_sum_where_every_element_has_a_function(layout: str, seed: int) -> None:
    delta, summed = (
        build_tiny_model(layout, f"model.pooling={pooling}", "model.router.truncation=2")
        for pooling in ("delta", "sum")
    )
    one, other = trace(delta, tiny_inputs(2, seed)), trace(summed, tiny_inputs(2, seed))
    assert all(bool((c_BUV > 0).all()) for c_BUV in one.compatibility[0])
    torch.testing.assert_close(one.outputs, other.outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["delta", "sum"])
@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("mixing", ["none", "sep_sum"])
def test_everything_closed_is_finite(pooling: str, layout: str, mixing: str) -> None:
    """No NaN in outputs or gradients; the weights of the functions get no gradient, those of the head do."""
    model = build_tiny_model(
        f"model.pooling={pooling}",
        f"model.execution={layout}",
        f"model.body.positions={mixing}",
        "model.router.truncation=0.0001",
    )
    assert not any(c_BUV.any() for c_BUV in trace(model, tiny_inputs()).compatibility[0])
    logits = model(tiny_inputs())
    found = gradients_by_name(model, weighted_sum(logits))
    assert all(bool(value.isfinite().all()) for value in (*logits.values(), *found.values()))
    assert all(not gradient.any() for name, gradient in found.items() if name.startswith("scripts."))
    assert found["head.maps.0.1.bias"].any()


@pytest.mark.parametrize("layout", ["dense", "packed"])
@pytest.mark.parametrize("mixing", ["none", "sep_sum"])
def test_bf16_autocast(layout: str, mixing: str) -> None:
    """Outputs and gradients are finite and close to those of full precision; open pairs do not depend on the precision."""
    text = [f"model.execution={layout}", f"model.body.positions={mixing}", "model.iterations=1"]
    text += ["model.head.shared_cls=true"] if mixing == "none" else []
    model, inputs = build_with_tasks(load_base_recipe(*text, text=TINY_TEXT)), tiny_inputs().float()
    with torch.autocast("cpu", torch.bfloat16):
        forward = model(inputs, detail="trace")
    exact = model(inputs, detail="trace")
    assert forward.script_outputs[0].compatibility[0].dtype == torch.float32
    for task, logits in forward.logits.items():
        torch.testing.assert_close(logits.float(), exact.logits[task], rtol=0.1, atol=0.1)
    found = gradients_by_name(model, weighted_sum({task: logits.float() for task, logits in forward.logits.items()}))
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    assert found["scripts.0.embedding.code"].any()
