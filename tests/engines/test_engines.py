"""What all engines do alike, in one process: fp16 (on the CPU, where recipes may not ask for it), and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ni_framework import build_model
from ni_framework.checkpoint.shards import held
from ni_framework.data.sampler import Order
from ni_framework.distributed.rendezvous import join
from ni_framework.engines.base import Engine, check_precision
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.engines.grad_scaler import LEAST, PATIENCE, START, LossScale
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RecipeError, RunError
from ni_framework.model.compose import build_data
from tests.helpers.small_recipe import small_recipe

ENGINES = {"local": [], **{f"stage {stage}": ["engine.use=zero", f"engine.stage={stage}"] for stage in range(4)}}


def engine_of(folder: Path, name: str, precision: str) -> tuple[Engine, Order]:
    recipe = small_recipe(folder, f"train.precision={precision}", "train.accumulate=2", *ENGINES[name])
    zero = recipe.engine.use == "zero"
    engine = ZeroEngine(recipe, join(recipe.engine)) if zero else LocalEngine(build_model(recipe), recipe)
    return engine, Order(build_data(recipe).open()["train"], recipe.train.batch, recipe.seed)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ni_framework.engines.base.check_precision", lambda *_: None)


@pytest.mark.usefixtures("anywhere")
def test_fp16_learns_as_fp32_does(tmp_path: Path) -> None:
    losses: dict[tuple[str, str], list[float]] = {}
    for name, precision in [("local", "fp32"), *((name, "fp16") for name in ENGINES)]:
        engine, order = engine_of(tmp_path, name, precision)
        losses[name, precision] = [engine.step(n, order[n], False).values["loss"].item() for n in range(10)]
        engine.close()
    plain = losses["local", "fp32"]
    assert all(found == pytest.approx(plain, abs=2e-3) for found in losses.values())
    assert losses["local", "fp16"] != plain


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("name", ENGINES)
def test_a_gradient_out_of_range_changes_nothing(tmp_path: Path, name: str) -> None:
    """But the factor; and the guard does not count it."""
    engine, order = engine_of(tmp_path, name, "fp16")
    assert engine.scale is not None
    for step in range(2):
        engine.step(step, order[step], False)
    before = {name: held(value).clone() for name, value in {**engine.weights(), **engine.optimizer_state()}.items()}
    engine.scale.factor = 2.0**120
    done = engine.step(2, order[2], False)
    after = {name: held(value) for name, value in {**engine.weights(), **engine.optimizer_state()}.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (engine.scale.factor, done.fault, engine.guard.seen, engine.guard.skipped) == (2.0**119, None, 2, 0)
    engine.scale.factor = START
    engine.step(3, order[3], False)
    after = {name: held(value) for name, value in engine.weights().items()}
    assert not all(torch.equal(before[name], after[name]) for name in after)
    engine.close()


def test_nothing_of_deepspeed_stays(tmp_path: Path) -> None:
    """It puts a linear map of its own in the place of torch's, for all models of the process."""
    linear = torch.nn.functional.linear
    engine, _ = engine_of(tmp_path, "stage 3", "fp32")
    assert torch.nn.functional.linear is not linear
    engine.close()
    assert torch.nn.functional.linear is linear


def test_the_factor_grows_again() -> None:
    """After 2,000 steps without an overflow; and goes on from what was stored."""
    scale = LossScale()
    assert scale.overflows(float("inf"))
    assert scale.factor == START / 2
    for _ in range(PATIENCE - 1):
        assert not scale.overflows(1.0)
    again = LossScale()
    again.load_state(scale.state())
    assert not again.overflows(1.0)
    assert (again.factor, again.good) == (START, 0)
    again.factor, again.good = LEAST, PATIENCE - 1
    assert not again.overflows(float("nan"))  # what is not finite at the least factor is the guard's affair
    assert (again.factor, again.good) == (LEAST, 0)


def test_fp16_without_a_gpu(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "train.precision=fp16")
    with pytest.raises(RecipeError) as caught:
        check_precision(recipe, torch.device("cpu"))
    assert str(caught.value) == (
        "override 'train.precision=fp16': error: train.precision: fp16 needs a GPU, and there is none here\n"
        "    train.precision=fp16\n"
        "                    ^\n"
        "  help: use bf16 or fp32"
    )


@pytest.mark.usefixtures("anywhere")
def test_a_loss_that_is_not_finite_is_a_fault_at_once(tmp_path: Path) -> None:
    """It is not scaled, so that no other factor would mend it; left to the factor, 16 steps would pass without a word."""
    engine, order = engine_of(tmp_path, "local", "fp16")
    batch = order[0]
    batch.inputs[3] = torch.nan
    assert engine.step(0, batch, False).fault == "the loss is nan"
    assert engine.scale is not None
    assert engine.scale.factor == START
    assert engine.diagnose(batch).places == [3]


@pytest.mark.parametrize("name", ENGINES)
def test_a_parameter_that_is_replaced(tmp_path: Path, name: str) -> None:
    """The optimizer knows nothing of it, and would train what is there no more, without a word."""
    engine, order = engine_of(tmp_path, name, "fp32")
    engine.step(0, order[0], False)
    embedding = engine.model.get_submodule("scripts.0.embedding")
    embedding.code = torch.nn.Parameter(torch.zeros(4, 5))
    with pytest.raises(RunError) as caught:
        engine.step(1, order[1], False)
    assert str(caught.value) == (
        "step 2: scripts.0.embedding.code is another parameter than when training was set up, and would never learn; "
        "change models between runs, as `ni grow` does"
    )
    engine.close()
