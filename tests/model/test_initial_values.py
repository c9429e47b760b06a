"""The values that a model starts with, and which of them are trained."""

from __future__ import annotations

import math

import pytest
import torch

from ni_framework.model.interpreter import Interpreter
from tests.helpers.models import TINY, build, recipe_of


def made(*overrides: str) -> Interpreter:
    return build(recipe_of(*overrides, text=TINY))


def values(*overrides: str) -> dict[str, torch.Tensor]:
    return dict(made(*overrides).named_parameters())


def test_seed_decides() -> None:
    one, same, other = values(), values(), values("seed=1")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["scripts.0.embedding.code"], other["scripts.0.embedding.code"])
    assert not torch.equal(one["head.cls"], other["head.cls"])


@pytest.mark.parametrize("override", ["model.scripts=2", "model.execution=packed", "model.body.positions=dot"])
def test_what_else_the_recipe_says_does_not(override: str) -> None:
    """A parameter of the same name and shape starts the same."""
    one, other = values(), values(override)
    assert one.keys() <= other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_scripts_start_differently() -> None:
    found = values("model.scripts=2")
    assert not torch.equal(found["scripts.0.embedding.code"], found["scripts.1.embedding.code"])


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 2.5])
def test_bandwidth(bandwidth: float) -> None:
    found = values(f"model.router.bandwidth={bandwidth}")["scripts.0.router.log_bandwidth"]
    assert found.exp().item() == pytest.approx(bandwidth)


def test_spread_of_the_values() -> None:
    """Signatures, codes and CLS elements normal; weights uniform in +-1/sqrt(inputs); biases of ModLin 0; places small."""
    found = values(
        "model.functions=40",
        "model.code=50",
        "model.type=30",
        "model.width=60",
        "model.input.positions=absolute",
        "model.body.hidden=70",
    )
    for name, deviation in {
        "scripts.0.embedding.signature": 1.0,
        "scripts.0.embedding.code": 1.0,
        "input.positions.table": 0.02,
        "scripts.0.body.lines.0.maps.query.weight": 1 / math.sqrt(3 * 60),
        "scripts.0.body.lines.0.maps.query.code_weight": 1 / math.sqrt(3 * 50),
        "scripts.0.body.lines.0.maps.mlp_out.weight": 1 / math.sqrt(3 * 70),
        "scripts.0.body.lines.0.maps.mlp_out.code_weight": 1 / math.sqrt(3 * 50),
    }.items():
        assert found[name].std().item() == pytest.approx(deviation, rel=0.1), name
        assert abs(found[name].mean().item()) < 0.1 * deviation, name
    weight = found["scripts.0.body.lines.0.maps.mlp_out.weight"]
    assert weight.abs().max() <= 1 / math.sqrt(70)
    assert not any(
        value.any() for name, value in found.items() if ".maps." in name and "body" in name and "bias" in name
    )


def test_what_is_trained() -> None:
    assert all(parameter.requires_grad for parameter in made().parameters())
    model = made("model.embedding={use: separate, signatures: frozen}", "model.router.learn_bandwidth=false")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"scripts.0.embedding.signature", "scripts.0.router.log_bandwidth"}


def test_sizes_of_the_parameters() -> None:
    """A function costs its signature and its code, and a shared CLS or head is there once."""
    one, other = values(), values("model.functions=5")
    assert sum(v.numel() for v in other.values()) - sum(v.numel() for v in one.values()) == 5 + 3
    assert values("model.head.shared_cls=true")["head.cls"].shape == (1, 8)
    shared = build(recipe_of("model.head.shared_head=true", text=TINY), {"shape": 3, "colour": 3})
    assert sum("head.maps" in name for name, _ in shared.named_parameters()) == 4
