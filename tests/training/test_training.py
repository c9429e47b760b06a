"""Training: what steps compute, and what must not change them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ni_framework import build_model
from ni_framework.contracts import Batch
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.training.train import train
from tests.helpers.small_recipe import load_small_recipe

RANDOM_ROUTER = (
    "model.router={use: function_dropout, keep: 0.7, inner: {use: quantised, size: 5, inner: stochastic_kernel}}"
)


def train_and_read_weights(folder: Path, *overrides: str, every: int | None = None) -> bytes:
    """Trains the small recipe, and returns its weights as bytes."""
    folder.mkdir()
    summary = train(load_small_recipe(folder, *overrides), folder / "run", checkpoint_every=every)
    return (Path(summary["checkpoint"]) / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("router", ["model.router=kernel", RANDOM_ROUTER])
def test_evaluation_logging_and_checkpoints_do_not_change_training(tmp_path: Path, router: str) -> None:
    """The weights are bit-identical, also with another state of torch's global generator; another seed changes them."""
    plain = train_and_read_weights(tmp_path / "plain", router)
    torch.manual_seed(7)
    assert train_and_read_weights(tmp_path / "evaluated", router, "train.evaluate_every=1") == plain
    assert train_and_read_weights(tmp_path / "logged", router, "train.log_every=1") == plain
    assert train_and_read_weights(tmp_path / "saved", router, every=2) == plain
    assert train_and_read_weights(tmp_path / "other", router, "seed=4") != plain


def test_training_does_not_use_the_global_generator(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_and_read_weights(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("router", ["model.router=kernel", RANDOM_ROUTER])
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_equal_the_whole_batch(tmp_path: Path, micro_batches: int, router: str) -> None:
    """Also if micro-batches have different numbers of targets, draw random numbers, or return aux losses and statistics."""
    batch = Batch(
        torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double(),
        {"digits": torch.arange(8)},
        present={"digits": torch.tensor([1, 1, 1, 0, 1, 0, 0, 0]).bool()},
        key=torch.arange(8),
    )
    results = []
    for number in (1, micro_batches):
        recipe = load_small_recipe(tmp_path, f"train.micro_batches={number}", router)
        engine = LocalEngine(build_model(recipe).double(), recipe)
        values = engine.step(3, batch, trace=False).values
        results.append((values, [value.clone() for value in engine.model.state_dict().values()]))
    (values, weights), (split_values, split_weights) = results
    for name in ("loss", "accuracy"):
        assert split_values[name].item() == pytest.approx(values[name].item(), abs=1e-12), name
    for weight, split_weight in zip(weights, split_weights, strict=True):
        torch.testing.assert_close(split_weight, weight, rtol=0, atol=1e-10)


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    """The norm over all parameters is at most the limit; null does not clip."""
    norms = {}
    for max_norm in ("0.01", "null"):
        recipe = load_small_recipe(tmp_path, f"train.max_grad_norm={max_norm}")
        engine = LocalEngine(build_model(recipe), recipe)
        engine.step(0, Batch(torch.randn(8, 1, 8, 8), {"digits": torch.arange(8)}), trace=False)
        gradients = [parameter.grad.norm() for parameter in engine.model.parameters() if parameter.grad is not None]
        norms[max_norm] = torch.stack(gradients).norm().item()
    assert norms["0.01"] == pytest.approx(0.01, rel=1e-3)
    assert norms["null"] > 0.1


def test_bf16_trains_with_fp32_weights(tmp_path: Path) -> None:
    """The forward pass runs in bf16, weights stay fp32, and the loss falls close to fp32's."""
    losses = {}
    for precision in ("fp32", "bf16"):
        recipe = load_small_recipe(tmp_path, f"train.precision={precision}", "train.batch=64")
        engine = LocalEngine(build_model(recipe), recipe)
        batch = Batch(
            torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), {"digits": torch.arange(64) % 10}
        )
        losses[precision] = [engine.step(step, batch, trace=False).values["loss"].item() for step in range(6)]
        assert all(parameter.dtype == torch.float32 for parameter in engine.model.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.05)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.slow
def test_sixty_steps_learn(tmp_path: Path) -> None:
    """They bring the loss of the small recipe well below chance."""
    summary = train(load_small_recipe(tmp_path, "train.steps=60", "train.batch=32"), tmp_path / "run")
    assert summary["metrics"]["train/loss"] < 2.25
    assert summary["metrics"]["test/accuracy"] > 0.2


def test_metrics_file_has_every_line(tmp_path: Path) -> None:
    """Step 0 is the routing probe; then a line every two steps with loss, accuracy, rate and routing; last the evaluation."""
    train(load_small_recipe(tmp_path), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 6]
    routing = {"routing/open", "routing/orphans", "routing/logit_variance", "routing/use/script0/f2"}
    assert routing | {"routing/state_norm/script0/iteration1"} <= lines[0].keys()
    assert routing | {"train/loss", "train/accuracy", "lr"} <= lines[1].keys()
    assert {"test/loss", "test/accuracy"} <= lines[-1].keys()


def test_a_failing_evaluation_saves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step is saved before the error is raised."""

    def fail(*arguments: object) -> dict[str, float]:
        raise RunError("a file cannot be read")

    monkeypatch.setattr("ni_framework.training.loop.evaluate_model", fail)
    with pytest.raises(RunError, match="a file cannot be read"):
        train(load_small_recipe(tmp_path), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "step-6" / "model.safetensors").is_file()
