"""What is computed in one piece is still what stands in the modules: changes to them count, and hooks are heard."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ni_standard.linear import ModLin, Plain
from torch import Tensor, nn

from ni_framework.contracts import NoOptions, Pairs
from ni_framework.nn.cpu.split_columns import side_by_side
from ni_framework.nn.mod_attention import mod_attention
from tests.helpers.models import script_of, tiny_inputs, tiny_of, weighted_sum

LAYOUTS = pytest.mark.parametrize("layout", ["dense", "packed"])
MAPS = ("query", "key", "value", "out", "mlp_in", "mlp_out")


class Doubled(ModLin):
    """A stranger's map, built on ours."""

    def forward(self, x_RD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        return 2 * super().forward(x_RD, prepared, pairs)


def line_of(model: nn.Module) -> Any:
    return script_of(model).body.lines[0]  # pyright: ignore[reportArgumentType, reportIndexIssue, reportAttributeAccessIssue]


@LAYOUTS
@pytest.mark.parametrize("name", MAPS)
def test_a_changed_map_counts(layout: str, name: str) -> None:
    """A class of its own, a replacement after building, and a hook that changes the answer."""
    model = tiny_of(f"model.execution={layout}")
    before = weighted_sum(model(tiny_inputs()))
    maps = line_of(model).maps
    hook = maps[name].register_forward_hook(lambda module, inputs, output: 2 * output)
    hooked = weighted_sum(model(tiny_inputs()))
    hook.remove()
    torch.testing.assert_close(weighted_sum(model(tiny_inputs())), before, rtol=1e-12, atol=1e-12)
    own, maps[name].__class__ = maps[name], Doubled
    doubled = weighted_sum(model(tiny_inputs()))
    torch.testing.assert_close(hooked, doubled, rtol=1e-12, atol=1e-12)
    assert (doubled - before).abs() > 1e-6
    maps[name] = Plain(NoOptions(), own.weight.shape[1], own.weight.shape[0], 3, own.bias is not None).double()
    assert (weighted_sum(model(tiny_inputs())) - before).abs() > 1e-6


@LAYOUTS
def test_a_changed_norm_counts(layout: str) -> None:
    model = tiny_of(f"model.execution={layout}")
    before = weighted_sum(model(tiny_inputs()))
    line_of(model).mlp_norm = nn.RMSNorm(8).double()
    assert (weighted_sum(model(tiny_inputs())) - before).abs() > 1e-6


@LAYOUTS
def test_hooks_are_heard(layout: str) -> None:
    """As often as there are iterations; the diagnosis of bad numbers and sharded training hang on it."""
    model = tiny_of(f"model.execution={layout}")
    line, heard = line_of(model), []
    for name, module in [*line.maps.items(), ("mlp_norm", line.mlp_norm)]:
        module.register_forward_pre_hook(lambda module, inputs, name=name: heard.append(name))
    model(tiny_inputs())
    assert sorted(heard) == sorted(3 * [*MAPS, "mlp_norm"])


def test_a_way_back_inside_autocast_is_the_way_back() -> None:
    for layout in ("dense", "packed"):
        for key in (2, 9):
            model = tiny_of(f"model.execution={layout}", f"model.body.key={key}", "model.body.bias=false")
            parameters = [p for p in model.parameters() if p.requires_grad]
            expected = torch.autograd.grad(weighted_sum(model(tiny_inputs())), parameters, allow_unused=True)
            total = weighted_sum(model(tiny_inputs()))
            with torch.autocast("cpu", torch.bfloat16):
                found = torch.autograd.grad(total, parameters, allow_unused=True)
            for one, other in zip(expected, found, strict=True):
                assert (one is None and other is None) or torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_rows_that_are_not_contiguous() -> None:
    """A norm may answer with any strides; wide keys once lost what they added to a copy."""
    model = tiny_of()
    script = script_of(model)
    line = line_of(model)
    prepared = line.prepare(script.embedding()[1], 7)
    assert prepared["attention"].wide
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


def test_parts_side_by_side_are_split_and_joined() -> None:
    """Gradients that are parts of one tensor are taken as it is, any others are put together."""
    rows = torch.arange(12.0, dtype=torch.float64).view(2, 6).requires_grad_()
    left, right = side_by_side(rows, [2, 4])
    assert torch.equal(left, rows[:, :2])
    assert torch.equal(right, rows[:, 2:])
    (found,) = torch.autograd.grad([left, right], rows, [torch.ones_like(left), 2 * torch.ones_like(right)])
    assert found.tolist() == [[1, 1, 2, 2, 2, 2]] * 2
    whole = torch.randn(2, 6, dtype=torch.float64)
    left, right = side_by_side(rows, [2, 4])
    (found,) = torch.autograd.grad([left, right], rows, [whole[:, :2], whole[:, 2:]])
    assert torch.equal(found, whole)
    left, right = side_by_side(rows, [3, 3])
    (found,) = torch.autograd.grad([left, right], rows, [whole[:, 3:], whole[:, :3]])  # the other way round
    assert torch.equal(found, torch.cat([whole[:, 3:], whole[:, :3]], dim=1))
