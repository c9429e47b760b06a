"""Fused computations still follow the modules: changed modules have an effect, and hooks run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ni_standard.linear import ModLin, Plain
from torch import Tensor, nn

from ni_framework.contracts import NoOptions, Pairs
from ni_framework.nn.cpu.split_columns import split_columns
from ni_framework.nn.mod_attention import mod_attention
from tests.helpers.models import build_tiny_model, first_script, tiny_inputs, weighted_sum

LAYOUTS = pytest.mark.parametrize("layout", ["dense", "packed"])
MAPS = ("query", "key", "value", "out", "mlp_in", "mlp_out")


class DoubledModLin(ModLin):
    """A third party's map that is derived from ModLin."""

    def forward(self, x_RD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        return 2 * super().forward(x_RD, prepared, pairs)


def first_line(model: nn.Module) -> Any:
    return first_script(model).body.lines[0]  # pyright: ignore[reportArgumentType, reportIndexIssue, reportAttributeAccessIssue]


@LAYOUTS
@pytest.mark.parametrize("name", MAPS)
def test_changed_map_has_an_effect(layout: str, name: str) -> None:
    """A derived class, a replacement after building, and a hook that changes the output."""
    model = build_tiny_model(f"model.execution={layout}")
    before = weighted_sum(model(tiny_inputs()))
    maps = first_line(model).maps
    hook = maps[name].register_forward_hook(lambda module, inputs, output: 2 * output)
    hooked = weighted_sum(model(tiny_inputs()))
    hook.remove()
    torch.testing.assert_close(weighted_sum(model(tiny_inputs())), before, rtol=1e-12, atol=1e-12)
    own, maps[name].__class__ = maps[name], DoubledModLin
    doubled = weighted_sum(model(tiny_inputs()))
    torch.testing.assert_close(hooked, doubled, rtol=1e-12, atol=1e-12)
    assert (doubled - before).abs() > 1e-6
    maps[name] = Plain(NoOptions(), own.weight.shape[1], own.weight.shape[0], 3, own.bias is not None).double()
    assert (weighted_sum(model(tiny_inputs())) - before).abs() > 1e-6


@LAYOUTS
def test_changed_norm_has_an_effect(layout: str) -> None:
    model = build_tiny_model(f"model.execution={layout}")
    before = weighted_sum(model(tiny_inputs()))
    first_line(model).mlp_norm = nn.RMSNorm(8).double()
    assert (weighted_sum(model(tiny_inputs())) - before).abs() > 1e-6


@LAYOUTS
def test_forward_hooks_run(layout: str) -> None:
    """Once per iteration; the search for non-finite values and sharded training depend on it."""
    model = build_tiny_model(f"model.execution={layout}")
    line, called = first_line(model), []
    for name, module in [*line.maps.items(), ("mlp_norm", line.mlp_norm)]:
        module.register_forward_pre_hook(lambda module, inputs, name=name: called.append(name))
    model(tiny_inputs())
    assert sorted(called) == sorted(3 * [*MAPS, "mlp_norm"])


def test_backward_inside_autocast_is_unchanged() -> None:
    for layout in ("dense", "packed"):
        for key in (2, 9):
            model = build_tiny_model(f"model.execution={layout}", f"model.body.key={key}", "model.body.bias=false")
            parameters = [p for p in model.parameters() if p.requires_grad]
            expected = torch.autograd.grad(weighted_sum(model(tiny_inputs())), parameters, allow_unused=True)
            total = weighted_sum(model(tiny_inputs()))
            with torch.autocast("cpu", torch.bfloat16):
                found = torch.autograd.grad(total, parameters, allow_unused=True)
            for one, other in zip(expected, found, strict=True):
                assert (one is None and other is None) or torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_rows_that_are_not_contiguous() -> None:
    """A norm may return any strides; wide keys once added a gradient to a copy and lost it."""
    model = build_tiny_model()
    script = first_script(model)
    line = first_line(model)
    prepared = line.prepare(script.embedding()[1], 7)
    assert prepared["attention"].has_wide_keys
    from ni_framework.nn.layouts.dense import DensePairs

    pairs = DensePairs(torch.rand(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    base = torch.randn(4, 7, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for strided in (True, False):
        leaf = base.clone().requires_grad_()
        z_UBVD = leaf.transpose(1, 2) if strided else leaf.transpose(1, 2).contiguous()
        attended = mod_attention(z_UBVD, prepared["attention"], None, pairs)
        (gradient,) = torch.autograd.grad(
            (attended * torch.arange(attended.numel()).sin().view_as(attended)).sum(), leaf
        )
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_split_columns_round_trip() -> None:
    """Gradients that are adjacent columns of one tensor are used as that tensor; others are concatenated."""
    rows = torch.arange(12.0, dtype=torch.float64).view(2, 6).requires_grad_()
    left, right = split_columns(rows, [2, 4])
    assert torch.equal(left, rows[:, :2])
    assert torch.equal(right, rows[:, 2:])
    (found,) = torch.autograd.grad([left, right], rows, [torch.ones_like(left), 2 * torch.ones_like(right)])
    assert found.tolist() == [[1, 1, 2, 2, 2, 2]] * 2
    full = torch.randn(2, 6, dtype=torch.float64)
    left, right = split_columns(rows, [2, 4])
    (found,) = torch.autograd.grad([left, right], rows, [full[:, :2], full[:, 2:]])
    assert torch.equal(found, full)
    left, right = split_columns(rows, [3, 3])
    # In the wrong order.
    (found,) = torch.autograd.grad([left, right], rows, [full[:, 3:], full[:, :3]])
    assert torch.equal(found, torch.cat([full[:, 3:], full[:, :3]], dim=1))
