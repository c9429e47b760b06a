"""Values that are not finite: the step is skipped, the cause is named, weights stay finite, and the run ends in time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ni_framework import build_model
from ni_framework.checkpoint.run_dir import find_latest_valid
from ni_framework.checkpoint.shards import local_tensor
from ni_framework.contracts import Batch, hookimpl
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.recipe import Recipe
from ni_framework.training.collapse import CollapseDetector
from ni_framework.training.train import resume, train
from tests.checkpoint.test_resume import WarningCollector, read_final_state
from tests.helpers.ni_runner import repeat
from tests.helpers.small_recipe import load_small_recipe


def noise_batch(seed: int = 0, size: int = 8) -> Batch:
    """Returns images of noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 1, 8, 8, generator=generator)
    return Batch(images, {"digits": torch.arange(size) % 10}, key=torch.arange(size) + seed)


def small_engine(folder: Path, *overrides: str) -> LocalEngine:
    """Returns the local engine with the small recipe."""
    recipe = load_small_recipe(folder, *overrides)
    return LocalEngine(build_model(recipe), recipe)


def step_state(engine: LocalEngine) -> dict[str, Tensor]:
    """Returns all tensors that a step may change, without the counts of skipped steps."""
    state = {**engine.weights(), **{f"state/{n}": v for n, v in engine.training_state().items()}}
    state |= {f"average/{name}": value for name, value in (engine.ema_weights() or {}).items()}
    return {name: local_tensor(value).clone() for name, value in state.items() if name != "state/guard/counts"}


def states_equal(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Returns whether two states are bit-identical."""
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@repeat(100)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_input_element_skips_the_step(tmp_path: Path, value: float, times: int) -> None:
    """At a random step, sample and pixel: nothing changes in that step, and the sample and the input are named."""
    generator = random.Random(times)
    router = "model.router={use: quantised, size: 5, inner: stochastic_kernel}"
    engine = small_engine(tmp_path, "train.ema_decay=0.9", "train.micro_batches=2", router)
    for step in range(times):
        engine.step(2 * step, noise_batch(2 * step), trace=False)
        before, bad = step_state(engine), noise_batch(2 * step + 1)
        sample = generator.randrange(8)
        bad.inputs[sample, 0, generator.randrange(8), generator.randrange(8)] = value
        result = engine.step(2 * step + 1, bad, trace=False)
        assert result.skip_reason == "the loss is nan"
        assert states_equal(before, step_state(engine))
        description = engine.find_nonfinite(bad).describe(torch.arange(100, 108))
        assert (
            description == f"samples of the training part: {100 + sample}; first that is not finite: the input itself"
        )
    assert all(parameter.isfinite().all() for parameter in engine.model.parameters())


def scale_loss(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Multiplies the loss by a factor.

    Args:
        engine: The engine.
        monkeypatch: Undoes the change.
        factor: The factor.
    """
    loss = engine.model.head.loss
    monkeypatch.setattr(engine.model.head, "loss", lambda logits, target: loss(logits, target) * factor)


LOSS_FAULTS: dict[str, tuple[float, str]] = {
    "a loss of 1e38": (5e37, "the loss is 1"),
    "a loss that overflows": (1e39, "the loss is inf"),
    "a gradient that overflows": (1e30, "the loss is 2.478e+30 and the norm of the gradient inf"),
}


@pytest.mark.parametrize("clip", ["null", "1.0"])
@pytest.mark.parametrize("name", LOSS_FAULTS)
def test_huge_loss_skips_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, clip: str) -> None:
    """With and without gradient clipping."""
    factor, reason = LOSS_FAULTS[name]
    engine = small_engine(tmp_path, f"train.max_grad_norm={clip}")
    engine.step(0, noise_batch(), trace=False)
    before = step_state(engine)
    scale_loss(engine, monkeypatch, factor)
    result = engine.step(1, noise_batch(1), trace=False)
    assert result.skip_reason is not None
    assert result.skip_reason.startswith(reason)
    assert states_equal(before, step_state(engine))
    assert engine.find_nonfinite(noise_batch(1)).describe(torch.arange(8)).startswith("samples of the training part: ")


def test_extreme_finite_values_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal elements, zeros, denormal numbers, elements without an open function, and a zero gradient."""
    engine = small_engine(tmp_path, "model.router.truncation=0.35", "train.max_grad_norm=null")
    inputs = {"equal": torch.ones(8, 1, 8, 8), "zero": torch.zeros(8, 1, 8, 8), "tiny": torch.full((8, 1, 8, 8), 1e-42)}
    for step, image in enumerate(inputs.values()):
        result = engine.step(step, noise_batch()._replace(inputs=image), trace=True)
        assert result.skip_reason is None
        compatibility = result.output.script_outputs[0].compatibility
        has_no_function = torch.cat([c_BUV.sum(dim=1).flatten() == 0 for c_BUV in compatibility])
        assert has_no_function.any()
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    scale_loss(engine, monkeypatch, 0.0)
    for group in engine.optimizer.param_groups:
        group["weight_decay"] = 0.0
    engine.optimizer.state.clear()
    assert engine.step(4, noise_batch(), trace=False).skip_reason is None
    assert states_equal(before, engine.model.state_dict())
    assert all(parameter.isfinite().all() for parameter in engine.model.parameters())


def test_module_with_nonfinite_output_is_named(tmp_path: Path) -> None:
    """The error names the innermost module."""
    engine = small_engine(tmp_path)
    with torch.no_grad():
        modules = engine.model.get_submodule("scripts.0.type_inference").named_modules(
            prefix="scripts.0.type_inference"
        )
        name, linear = next((name, module) for name, module in modules if isinstance(module, nn.Linear))
        linear.weight[0, 0] = torch.inf
    reason = engine.step(0, noise_batch(), trace=False).skip_reason
    assert reason is not None
    # Without finite types no function is open, and the loss itself is finite.
    assert reason.endswith("and the norm of the gradient nan")
    assert (
        engine.find_nonfinite(noise_batch()).describe(torch.arange(8)).endswith(f"; first that is not finite: {name}")
    )


class PoisonedSplit:
    """A split in which one sample is NaN."""

    def __init__(self, split: Any, sample: int) -> None:
        self.split, self.sample = split, sample

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        batch = self.split.batch(index_B, key_B)
        batch.inputs[index_B == self.sample] = torch.nan
        return batch


class OpenedData:
    """Data that are open already."""

    def __init__(self, splits: Mapping[str, Any]) -> None:
        self.splits = splits

    def open(self) -> Mapping[str, Any]:
        return self.splits


PoisonSample = Callable[..., None]


@pytest.fixture
def poison_sample(monkeypatch: pytest.MonkeyPatch) -> PoisonSample:
    """Returns a function that makes one sample of a split NaN, in all runs of the test from then on."""
    from ni_framework.training import train as trainer

    original = trainer.build_data

    def apply(name: str, sample: int) -> None:
        def build(recipe: Recipe) -> OpenedData:
            splits = dict(original(recipe).open())
            return OpenedData(splits | {name: PoisonedSplit(splits[name], sample)})

        monkeypatch.setattr(trainer, "build_data", build)

    return apply


def test_nan_training_sample(tmp_path: Path, poison_sample: PoisonSample) -> None:
    """Its steps are skipped with a warning, the run succeeds, and a resumed run is bit-identical."""
    poison_sample("train", 17)
    recipe = load_small_recipe(tmp_path, "train.steps=240", "train.log_every=40")
    collector = WarningCollector()
    summary = train(recipe, tmp_path / "run", checkpoint_every=100, listeners=[collector])
    skips = [message for message in collector.messages if "was skipped" in message]
    # An epoch has 175 steps, so that the sample occurs once in 240 steps.
    assert len(skips) == 1
    assert "samples of the training part: 17; first that is not finite: the input itself" in skips[0]
    assert '"warning": "step ' in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert summary["metrics"]["train/loss"] < 2.6
    resume(tmp_path / "run" / "checkpoints" / "step-100", run_dir=tmp_path / "again")
    assert read_final_state(tmp_path / "again") == read_final_state(tmp_path / "run")


def test_nan_test_sample(tmp_path: Path, poison_sample: PoisonSample) -> None:
    """It does not stop or change training; metrics that are not finite are null in the files."""
    recipe = load_small_recipe(tmp_path, "train.evaluate_every=2")
    train(recipe, tmp_path / "good")
    poison_sample("test", 3)
    summary = train(recipe, tmp_path / "run")
    assert math.isnan(summary["metrics"]["test/loss"])
    assert '"test/loss": null' in (tmp_path / "run" / "metrics.jsonl").read_text()
    weights = [(find_latest_valid(tmp_path / name)[0] / "model.safetensors").read_bytes() for name in ("good", "run")]
    assert weights[0] == weights[1]
    assert find_latest_valid(tmp_path / "run")[1].metrics["test/loss"] is None


class RuinWeight:
    """Makes a weight of the model NaN after a step, as broken memory would."""

    def __init__(self, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step, self.engines = step, []
        original = LocalEngine.__init__

        def init(engine: LocalEngine, *arguments: Any) -> None:
            original(engine, *arguments)
            self.engines.append(engine)

        monkeypatch.setattr(LocalEngine, "__init__", init)

    @hookimpl
    def run_step(self, step: int, samples: int, values: Mapping[str, Tensor]) -> None:
        if step == self.step:
            with torch.no_grad():
                next(self.engines[0].model.parameters()).fill_(torch.nan)


def test_too_many_skipped_steps_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the allowed number in a row; the last good checkpoint is kept, and no bad one is saved."""
    recipe = load_small_recipe(tmp_path, "train.steps=90", "train.skip.max_consecutive=2")
    collector = WarningCollector()
    with pytest.raises(RunError) as caught:
        train(
            recipe, tmp_path / "run", checkpoint_every=5, keep_last=1, listeners=[collector, RuinWeight(7, monkeypatch)]
        )
    message = str(caught.value)
    assert message.startswith(
        "step 9: 2 steps in a row were skipped, the last because the loss is nan; samples of the "
    )
    assert message.endswith(
        "lower train.optimizer.lr, set train.max_grad_norm, fix the data, or raise train.skip.max_consecutive"
    )
    assert len([message for message in collector.messages if "was skipped" in message]) == 2
    checkpoint, manifest, faults = find_latest_valid(tmp_path / "run")
    assert manifest.step == 5
    assert faults == []
    assert [entry.name for entry in (tmp_path / "run" / "checkpoints").glob("step-*")] == [checkpoint.name]


def test_good_weights_are_saved_when_bad_data_end_the_run(tmp_path: Path, poison_sample: PoisonSample) -> None:
    """The weights of the last good step are saved before the error is raised."""
    recipe = load_small_recipe(tmp_path, "train.steps=200", "train.skip.max_consecutive=1")
    poison_sample("train", 17)
    with pytest.raises(RunError, match=r"1 steps in a row were skipped") as caught:
        train(recipe, tmp_path / "run")
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    assert find_latest_valid(tmp_path / "run")[1].step == step


def test_spikes_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss ten deviations above a hundred earlier ones; not with `max_deviation: null` or among the first hundred."""
    for overrides, steps, skipped in ((), 101, True), (("train.skip.max_deviation=null",), 101, False), ((), 50, False):
        engine = small_engine(tmp_path, *overrides)
        for step in range(steps):
            assert engine.step(step, noise_batch(step), trace=False).skip_reason is None
        before = step_state(engine)
        with monkeypatch.context() as context:
            scale_loss(engine, context, 30.0)
            reason = engine.step(steps, noise_batch(steps), trace=False).skip_reason
        assert (reason is not None) == skipped
        assert states_equal(before, step_state(engine)) == skipped
        if reason:
            assert "a spike: the recent ones are " in reason
            assert engine.step(steps + 1, noise_batch(steps), trace=False).skip_reason is None
            assert engine.guard.consecutive_skips == 0


def test_collapse_is_a_warning(tmp_path: Path) -> None:
    """Once for each function, after three lines of metrics in a row; also if the run was resumed in between."""
    closed = "model.router={use: kernel, truncation: 0.35}"
    recipe = load_small_recipe(tmp_path, "train.steps=8", "train.log_every=1", closed, "seed=6")
    collector = WarningCollector()
    train(recipe, tmp_path / "run", checkpoint_every=2, listeners=[collector])
    alarms = [message for message in collector.messages if "collapsed" in message]
    remedy = "; lower train.optimizer.lr, raise model.router.truncation or bandwidth, or use fewer functions"
    assert alarms == [
        f"functions have collapsed: f0 of script0 is no longer used{remedy}",
        f"functions have collapsed: f1 takes 100.0% of what script0 computes{remedy}",
        f"functions have collapsed: f2 of script0 is no longer used{remedy}",
    ]
    resumed_early = WarningCollector()
    resume(tmp_path / "run" / "checkpoints" / "step-2", run_dir=tmp_path / "again", listeners=[resumed_early])
    assert resumed_early.messages == alarms
    resumed_late = WarningCollector()
    resume(tmp_path / "run" / "checkpoints" / "step-4", run_dir=tmp_path / "later", listeners=[resumed_late])
    assert resumed_late.messages == []


def test_single_function_is_no_collapse() -> None:
    """Neither are uneven shares; the count starts again after a function was used."""
    collapse = CollapseDetector()
    assert not any(collapse.check({"routing/use/script0/f0": 1.0}) for _ in range(9))
    uneven = {"routing/use/script0/f0": 0.989, "routing/use/script0/f1": 0.011}
    assert not any(collapse.check(uneven) for _ in range(9))
    unused = {"routing/use/script0/f0": 0.5, "routing/use/script0/f1": 0.5, "routing/use/script0/f2": 0.0}
    used = unused | {"routing/use/script0/f2": 0.1}
    lines = [unused, unused, used, unused, unused, unused, unused]
    assert [len(collapse.check(line)) for line in lines] == [0, 0, 0, 0, 0, 1, 0]
