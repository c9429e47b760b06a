"""Averaged weights: their closed form, and that they are what is evaluated, loaded and begun with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ni_framework import build_model, load_model
from ni_framework.checkpoint.load import begin_with
from ni_framework.checkpoint.run_dir import checkpoints_of
from ni_framework.engines.local import LocalEngine
from ni_framework.evaluation.evaluate import evaluate
from ni_framework.model.compose import build_data
from ni_framework.training.train import train
from tests.helpers.small_recipe import small_recipe

NAME = "scripts.0.embedding.code"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, each of them saved."""
    folder = tmp_path_factory.mktemp("average")
    train(small_recipe(folder, "train.average=0.7"), folder / "run", every=1)
    return folder / "run"


def test_closed_form(run: Path) -> None:
    """a_1 = w_1 and a_t = 0.7 a_{t-1} + 0.3 w_t, so a_t = 0.7^{t-1} w_1 + 0.3 sum_{s=2..t} 0.7^{t-s} w_s."""
    weights = [load_file(folder / "model.safetensors")[NAME].double() for folder in checkpoints_of(run)]
    for t, folder in enumerate(checkpoints_of(run), start=1):
        expected = 0.7 ** (t - 1) * weights[0]
        expected += sum((0.3 * 0.7 ** (t - s) * weights[s - 1] for s in range(2, t + 1)), torch.zeros(()))
        average = load_file(folder / "average.safetensors")[NAME].double()
        torch.testing.assert_close(average, expected, rtol=0, atol=1e-6)
    assert not torch.equal(average, weights[-1])  # pyright: ignore[reportPossiblyUnboundVariable]


def test_it_is_what_is_used(run: Path, tmp_path: Path) -> None:
    """By loading, by the evaluation at the end, and by a run that begins with it; training itself goes on without."""
    last = checkpoints_of(run)[-1]
    average = load_file(last / "average.safetensors")
    model = load_model(run)
    assert all(torch.equal(value, average[name]) for name, value in model.state_dict().items())
    recipe = small_recipe(tmp_path)
    tests = evaluate(model, build_data(recipe).open()["test"])
    plain = train(recipe, tmp_path / "plain")
    assert (Path(plain["checkpoint"]) / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    still = small_recipe(tmp_path, "train.optimizer.lr=1e-12", "train.steps=1", "train.optimizer.weight_decay=0")
    begun = train(still, tmp_path / "begun", start=str(run))
    assert begun["metrics"]["test/loss"] == pytest.approx(tests["test/loss"], abs=1e-6)
    assert plain["metrics"]["test/loss"] != pytest.approx(tests["test/loss"], abs=1e-6)


def test_a_run_that_never_takes_a_step_keeps_what_it_began_with(run: Path, tmp_path: Path) -> None:
    """With averages and weights of another run, what is evaluated is these until a step is taken."""
    recipe = small_recipe(tmp_path, "train.average=0.7")
    engine = LocalEngine(build_model(recipe), recipe)
    begin_with(engine, checkpoints_of(run)[-1])
    average = load_file(checkpoints_of(run)[-1] / "average.safetensors")
    with engine.inference() as model:
        assert all(torch.equal(value, average[name]) for name, value in model.state_dict().items())
