"""EMA of the weights: its closed form, and that it is what is evaluated, loaded and used by `init_from`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ni_framework import build_model, load_model
from ni_framework.checkpoint.load import init_from_checkpoint
from ni_framework.checkpoint.run_dir import list_checkpoints
from ni_framework.engines.local import LocalEngine
from ni_framework.evaluation.evaluate import evaluate_model
from ni_framework.model.compose import build_data
from ni_framework.training.train import train
from tests.helpers.small_recipe import load_small_recipe

pytestmark = pytest.mark.slow

CODE_NAME = "scripts.0.embedding.code"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, each of them saved."""
    folder = tmp_path_factory.mktemp("average")
    train(load_small_recipe(folder, "train.ema_decay=0.7"), folder / "run", checkpoint_every=1)
    return folder / "run"


def test_closed_form(run: Path) -> None:
    """a_1 = w_1 and a_t = 0.7 a_{t-1} + 0.3 w_t, so a_t = 0.7^{t-1} w_1 + 0.3 sum_{s=2..t} 0.7^{t-s} w_s."""
    weights = [load_file(folder / "model.safetensors")[CODE_NAME].double() for folder in list_checkpoints(run)]
    for t, folder in enumerate(list_checkpoints(run), start=1):
        expected = 0.7 ** (t - 1) * weights[0]
        expected += sum((0.3 * 0.7 ** (t - s) * weights[s - 1] for s in range(2, t + 1)), torch.zeros(()))
        average = load_file(folder / "average.safetensors")[CODE_NAME].double()
        torch.testing.assert_close(average, expected, rtol=0, atol=1e-6)
    assert not torch.equal(average, weights[-1])  # pyright: ignore[reportPossiblyUnboundVariable]


def test_ema_weights_are_used_for_inference(run: Path, tmp_path: Path) -> None:
    """By loading, by the evaluation at the end, and by a run that starts from it; training itself does not use the EMA."""
    last = list_checkpoints(run)[-1]
    average = load_file(last / "average.safetensors")
    model = load_model(run)
    assert all(torch.equal(value, average[name]) for name, value in model.state_dict().items()), "load_model"
    recipe = load_small_recipe(tmp_path)
    ema_metrics = evaluate_model(model, build_data(recipe).open()["test"])
    plain = train(recipe, tmp_path / "without-ema")
    assert (Path(plain["checkpoint"]) / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    fixed_weights = load_small_recipe(
        tmp_path, "train.optimizer.lr=1e-12", "train.steps=1", "train.optimizer.weight_decay=0"
    )
    started = train(fixed_weights, tmp_path / "started", init_from=str(run))
    assert started["metrics"]["test/loss"] == pytest.approx(ema_metrics["test/loss"], abs=1e-6), (
        "init_from uses the EMA"
    )
    assert plain["metrics"]["test/loss"] != pytest.approx(ema_metrics["test/loss"], abs=1e-6), "the EMA differs"


def test_ema_of_a_run_without_steps_is_initial_weights(run: Path, tmp_path: Path) -> None:
    """An engine that starts from another run's EMA is evaluated with it until its first step."""
    recipe = load_small_recipe(tmp_path, "train.ema_decay=0.7")
    engine = LocalEngine(build_model(recipe), recipe)
    init_from_checkpoint(engine, list_checkpoints(run)[-1])
    average = load_file(list_checkpoints(run)[-1] / "average.safetensors")
    with engine.inference() as model:
        assert all(torch.equal(value, average[name]) for name, value in model.state_dict().items())
