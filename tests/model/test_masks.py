"""A masked element influences nothing, whatever its values are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.models import (
    assert_equal_gradients,
    build_tiny_model,
    first_script,
    gradients_by_name,
    tiny_inputs,
    weighted_sum,
)

MASKS = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=2, max_size=2)
# Without shrinking, which takes minutes.
EXAMPLES = settings(derandomize=True, max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
LAYOUTS = ["dense", "packed"]


def filled(inputs: Tensor, mask: Tensor, value: float) -> Tensor:
    """Images [B, 1, 6, 4] whose masked patches of 2 x 2 pixels hold one value everywhere."""
    pixels = mask.view(-1, 1, 3, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return torch.where(pixels, inputs, value)


@pytest.mark.slow
@EXAMPLES
@given(masks=MASKS, layout=st.sampled_from(LAYOUTS), pooling=st.sampled_from(["delta", "sum"]))
@pytest.mark.parametrize("value", [0.0, 1e6, math.nan, math.inf])
def test_values_of_masked_elements_do_not_change_outputs(
    value: float, masks: list[list[bool]], layout: str, pooling: str
) -> None:
    """The logits are the same, and masked pixels get a gradient of exactly 0."""
    overrides = [f"model.execution={layout}", f"model.pooling={pooling}", "model.body.positions=sep_sum"]
    model, mask = build_tiny_model(*overrides), torch.tensor(masks)
    inputs = filled(tiny_inputs(), mask, value).requires_grad_()
    expected, logits = model(tiny_inputs(), mask), model(inputs, mask)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(weighted_sum(logits), inputs)
    assert not gradient[~filled(torch.ones_like(inputs), mask, 0.0).bool()].any()
    assert bool(gradient.isfinite().all())


MASK = torch.tensor([[True, False, True, True, False, True], [True] * 5 + [False]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "value",
    [1e6, math.nan, math.inf],
)
def test_values_of_masked_elements_do_not_change_gradients(value: float, layout: str) -> None:
    model = build_tiny_model(f"model.execution={layout}")
    expected = gradients_by_name(model, weighted_sum(model(tiny_inputs(), MASK)))
    gradients = gradients_by_name(model, weighted_sum(model(filled(tiny_inputs(), MASK, value), MASK)))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    assert_equal_gradients(gradients, expected, tolerance=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masked_elements_are_equal_to_absent_ones(layout: str) -> None:
    """A script with some elements masked computes the same for the others as a script on the others alone."""
    script = first_script(build_tiny_model(f"model.execution={layout}"))
    x_BVD = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    present_V = torch.tensor([True, True, False, True, False, True, True])
    masked = script(x_BVD, present_V.expand(2, -1), trace=True)
    alone = script(x_BVD[:, present_V], trace=True)
    torch.testing.assert_close(masked.output_BVD[:, present_V], alone.output_BVD, rtol=1e-10, atol=1e-12)
    assert torch.equal(masked.output_BVD[:, ~present_V], x_BVD[:, ~present_V])
    for all_BUV, some_BUV in zip(masked.compatibility, alone.compatibility, strict=True):
        torch.testing.assert_close(all_BUV[:, :, present_V], some_BUV, rtol=1e-10, atol=1e-12)
        assert not all_BUV[:, :, ~present_V].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_masked_is_finite(layout: str) -> None:
    """Only the CLS elements remain."""
    model = build_tiny_model(f"model.execution={layout}", "model.body.positions=dot")
    logits = model(tiny_inputs(), torch.zeros(2, 6, dtype=torch.bool))
    # Nothing that differs between the two samples is left; batched products may round them differently.
    for values in logits.values():
        torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
    assert all(bool(g.isfinite().all()) for g in gradients_by_name(model, weighted_sum(logits)).values())


def test_full_mask_is_equal_to_no_mask() -> None:
    model = build_tiny_model()
    torch.testing.assert_close(
        model(tiny_inputs(), torch.ones(2, 6, dtype=torch.bool)), model(tiny_inputs()), rtol=0, atol=0
    )
