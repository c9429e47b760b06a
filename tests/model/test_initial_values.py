"""Initial values of a model, and which parameters are trained."""

from __future__ import annotations

import math

import pytest
import torch

from ni_framework.model.interpreter import Interpreter
from tests.helpers.models import TINY_RECIPE, build_with_tasks, load_base_recipe


def build_initial(*overrides: str) -> Interpreter:
    return build_with_tasks(load_base_recipe(*overrides, text=TINY_RECIPE))


def initial_values(*overrides: str) -> dict[str, torch.Tensor]:
    return dict(build_initial(*overrides).named_parameters())


def test_values_depend_on_the_seed() -> None:
    one, same, other = initial_values(), initial_values(), initial_values("seed=1")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["scripts.0.embedding.code"], other["scripts.0.embedding.code"])
    assert not torch.equal(one["head.cls"], other["head.cls"])


@pytest.mark.parametrize("override", ["model.scripts=2", "model.execution=packed", "model.body.positions=dot"])
def test_initial_values_ignore_other_recipe_keys(override: str) -> None:
    """A parameter of the same name and shape starts the same."""
    one, other = initial_values(), initial_values(override)
    assert one.keys() <= other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_scripts_start_differently() -> None:
    found = initial_values("model.scripts=2")
    assert not torch.equal(found["scripts.0.embedding.code"], found["scripts.1.embedding.code"])


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 2.5])
def test_bandwidth(bandwidth: float) -> None:
    found = initial_values(f"model.router.bandwidth={bandwidth}")["scripts.0.router.log_bandwidth"]
    assert found.exp().item() == pytest.approx(bandwidth)


def test_spread_of_the_values() -> None:
    """Signatures, codes and CLS elements are normal; weights uniform in +-1/sqrt(inputs); biases of ModLin 0; positions small."""
    found = initial_values(
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


def test_frozen_parameters() -> None:
    assert all(parameter.requires_grad for parameter in build_initial().parameters())
    model = build_initial("model.embedding={use: separate, signatures: frozen}", "model.router.learn_bandwidth=false")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"scripts.0.embedding.signature", "scripts.0.router.log_bandwidth"}


def test_sizes_of_the_parameters() -> None:
    """A function has a signature and a code of its own; a shared CLS element or head exists once."""
    one, other = initial_values(), initial_values("model.functions=5")
    assert sum(v.numel() for v in other.values()) - sum(v.numel() for v in one.values()) == 5 + 3
    assert initial_values("model.head.shared_cls=true")["head.cls"].shape == (1, 8)
    shared = build_with_tasks(
        load_base_recipe("model.head.shared_head=true", text=TINY_RECIPE), {"shape": 3, "colour": 3}
    )
    assert sum("head.maps" in name for name, _ in shared.named_parameters()) == 4
