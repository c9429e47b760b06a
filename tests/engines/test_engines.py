"""What all engines share, in one process: fp16 (here on the CPU, where recipes cannot request it) and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ni_framework import build_model
from ni_framework.checkpoint.shards import local_tensor
from ni_framework.data.sampler import EpochSampler
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.base import Engine
from ni_framework.engines.deepspeed.engine import ZeroEngine
from ni_framework.engines.grad_scaler import GROWTH_INTERVAL, INITIAL_SCALE, MIN_SCALE, GradScaler
from ni_framework.engines.local import LocalEngine
from ni_framework.engines.preconditions import check_precision
from ni_framework.errors import RecipeError, RunError
from ni_framework.model.compose import build_data
from tests.helpers.small_recipe import load_small_recipe

ENGINE_OVERRIDES = {
    "local": [],
    **{f"stage {stage}": ["engine.use=zero", f"engine.stage={stage}"] for stage in range(4)},
}


def build_engine(folder: Path, name: str, precision: str) -> tuple[Engine, EpochSampler]:
    recipe = load_small_recipe(folder, f"train.precision={precision}", "train.micro_batches=2", *ENGINE_OVERRIDES[name])
    zero = recipe.engine.use == "zero"
    engine = ZeroEngine(recipe, init_process_group(recipe.engine)) if zero else LocalEngine(build_model(recipe), recipe)
    return engine, EpochSampler(build_data(recipe).open()["train"], recipe.train.batch, recipe.seed)


@pytest.fixture
def allow_any_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ni_framework.engines.base.check_precision", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("allow_any_precision")
def test_fp16_learns_as_fp32_does(tmp_path: Path) -> None:
    losses: dict[tuple[str, str], list[float]] = {}
    for name, precision in [("local", "fp32"), *((name, "fp16") for name in ENGINE_OVERRIDES)]:
        engine, sampler = build_engine(tmp_path, name, precision)
        losses[name, precision] = [engine.step(n, sampler[n], False).values["loss"].item() for n in range(10)]
        engine.close()
    fp32_losses = losses["local", "fp32"]
    for case, fp16_losses in losses.items():
        assert fp16_losses == pytest.approx(fp32_losses, abs=2e-3), case
    assert losses["local", "fp16"] != fp32_losses, "fp16 was not used"


@pytest.mark.slow
@pytest.mark.usefixtures("allow_any_precision")
@pytest.mark.parametrize("name", ENGINE_OVERRIDES)
def test_an_fp16_overflow_skips_the_step(tmp_path: Path, name: str) -> None:
    """Only the loss scale changes; the guard does not count the step."""
    engine, sampler = build_engine(tmp_path, name, "fp16")
    assert engine.grad_scaler is not None
    for step in range(2):
        engine.step(step, sampler[step], False)
    before = {
        name: local_tensor(value).clone() for name, value in {**engine.weights(), **engine.optimizer_state()}.items()
    }
    engine.grad_scaler.scale = 2.0**120
    result = engine.step(2, sampler[2], False)
    after = {name: local_tensor(value) for name, value in {**engine.weights(), **engine.optimizer_state()}.items()}
    for name, value in before.items():
        assert torch.equal(value, after[name]), f"{name} has changed"
    assert engine.grad_scaler.scale == 2.0**119, "the scale is halved"
    assert result.skip_reason is None, "an overflow is no fault"
    assert engine.guard.num_losses == 2, "the guard does not record the loss"
    assert engine.guard.consecutive_skips == 0, "the guard does not count a skipped step"
    engine.grad_scaler.scale = INITIAL_SCALE
    engine.step(3, sampler[3], False)
    after = {name: local_tensor(value) for name, value in engine.weights().items()}
    assert not all(torch.equal(before[name], after[name]) for name in after), "the next step is taken"
    engine.close()


def test_close_restores_torch_linear(tmp_path: Path) -> None:
    """DeepSpeed replaces torch's linear map for all models of the process."""
    linear = torch.nn.functional.linear
    engine, _ = build_engine(tmp_path, "stage 3", "fp32")
    assert torch.nn.functional.linear is not linear
    engine.close()
    assert torch.nn.functional.linear is linear


def test_loss_scale_grows_after_steps_without_overflow() -> None:
    """It doubles after 2,000 of them, also if the scaler is restored from its state in between."""
    scaler = GradScaler()
    assert scaler.check_overflow(float("inf"))
    assert scaler.scale == INITIAL_SCALE / 2
    for _ in range(GROWTH_INTERVAL - 1):
        assert not scaler.check_overflow(1.0)
    restored = GradScaler()
    restored.load_state(scaler.state())
    assert not restored.check_overflow(1.0)
    assert (restored.scale, restored.good_steps) == (INITIAL_SCALE, 0)
    restored.scale, restored.good_steps = MIN_SCALE, GROWTH_INTERVAL - 1
    # At the smallest scale a nonfinite gradient is for the guard to judge.
    assert not restored.check_overflow(float("nan"))
    assert (restored.scale, restored.good_steps) == (MIN_SCALE, 0)


def test_fp16_without_a_gpu_is_an_error(tmp_path: Path) -> None:
    recipe = load_small_recipe(tmp_path, "train.precision=fp16")
    with pytest.raises(RecipeError) as caught:
        check_precision(recipe, torch.device("cpu"))
    assert str(caught.value) == (
        "override 'train.precision=fp16': error: train.precision: fp16 needs a GPU, and this machine has none\n"
        "    train.precision=fp16\n"
        "                    ^\n"
        "  help: use bf16 or fp32"
    )


@pytest.mark.usefixtures("allow_any_precision")
def test_a_nonfinite_loss_is_reported_at_once(tmp_path: Path) -> None:
    """A smaller loss scale would not help; if the scaler handled it, 16 steps would be skipped silently."""
    engine, sampler = build_engine(tmp_path, "local", "fp16")
    batch = sampler[0]
    batch.inputs[3] = torch.nan
    assert engine.step(0, batch, False).skip_reason == "the loss is nan"
    assert engine.grad_scaler is not None
    assert engine.grad_scaler.scale == INITIAL_SCALE
    assert engine.find_nonfinite(batch).positions == [3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINE_OVERRIDES)
def test_a_replaced_parameter_is_an_error(tmp_path: Path, name: str) -> None:
    """The optimizer would silently train the parameter that is no longer in the model."""
    engine, sampler = build_engine(tmp_path, name, "fp32")
    engine.step(0, sampler[0], False)
    embedding = engine.model.get_submodule("scripts.0.embedding")
    embedding.code = torch.nn.Parameter(torch.zeros(4, 5))
    with pytest.raises(RunError) as caught:
        engine.step(1, sampler[1], False)
    assert str(caught.value) == (
        "step 2: scripts.0.embedding.code is not the parameter that training was set up with, and would never be trained; "
        "change a model between runs, as `ni grow` does"
    )
    engine.close()
