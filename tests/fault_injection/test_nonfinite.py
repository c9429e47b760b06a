"""Numbers that would ruin a run: the step is skipped, who is to blame is named, weights stay finite, and it ends in time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ni_framework import build_model
from ni_framework.checkpoint.run_dir import newest_good
from ni_framework.checkpoint.shards import held
from ni_framework.contracts import Batch, hookimpl
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.recipe import Recipe
from ni_framework.training.collapse import Collapse
from ni_framework.training.train import resume, train
from tests.checkpoint.test_resume import Warnings, left_behind
from tests.helpers.ni_runner import repeated
from tests.helpers.small_recipe import small_recipe


def batch(seed: int = 0, size: int = 8) -> Batch:
    """Images of noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 1, 8, 8, generator=generator)
    return Batch(images, {"digits": torch.arange(size) % 10}, key=torch.arange(size) + seed)


def engine(folder: Path, *overrides: str) -> LocalEngine:
    """The small recipe's engine."""
    recipe = small_recipe(folder, *overrides)
    return LocalEngine(build_model(recipe), recipe)


def state(engine: LocalEngine) -> dict[str, Tensor]:
    """All that a step may change, but for the count of skipped steps."""
    parts = {**engine.weights(), **{f"state/{n}": v for n, v in engine.training_state().items()}}
    parts |= {f"average/{name}": value for name, value in (engine.averages() or {}).items()}
    return {name: held(value).clone() for name, value in parts.items() if name != "state/guard/counts"}


def same(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@repeated(100)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_input_element(tmp_path: Path, value: float, times: int) -> None:
    """At a random step, sample and pixel: nothing changes in that step, and sample and module are named."""
    generator = random.Random(times)
    drawing = "model.router={use: quantised, size: 5, inner: stochastic_kernel}"
    running = engine(tmp_path, "train.average=0.9", "train.accumulate=2", drawing)
    for step in range(times):
        running.step(2 * step, batch(2 * step), trace=False)
        before, bad = state(running), batch(2 * step + 1)
        sample = generator.randrange(8)
        bad.inputs[sample, 0, generator.randrange(8), generator.randrange(8)] = value
        done = running.step(2 * step + 1, bad, trace=False)
        assert done.fault == "the loss is nan"
        assert same(before, state(running))
        words = running.diagnose(bad).words(torch.arange(100, 108))
        assert words == f"samples of the training part: {100 + sample}; first that is not finite: the input itself"
    assert all(parameter.isfinite().all() for parameter in running.model.parameters())


def scaled(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Has the loss multiplied."""
    loss = engine.model.head.loss
    monkeypatch.setattr(engine.model.head, "loss", lambda logits, target: loss(logits, target) * factor)


FAULTS: dict[str, tuple[float, str]] = {
    "a loss of 1e38": (5e37, "the loss is 1"),
    "a loss that overflows": (1e39, "the loss is inf"),
    "a gradient that overflows": (1e30, "the loss is 2.478e+30 and the norm of the gradient inf"),
}


@pytest.mark.parametrize("clip", ["null", "1.0"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_loss_without_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, clip: str) -> None:
    """It is skipped, whether gradients are clipped or not."""
    factor, said = FAULTS[name]
    running = engine(tmp_path, f"train.clip={clip}")
    running.step(0, batch(), trace=False)
    before = state(running)
    scaled(running, monkeypatch, factor)
    done = running.step(1, batch(1), trace=False)
    assert done.fault is not None
    assert done.fault.startswith(said)
    assert same(before, state(running))
    assert running.diagnose(batch(1)).words(torch.arange(8)).startswith("samples of the training part: ")


def test_harmless_extremes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient, equal elements, numbers too small for their type, elements without a function: all stays finite."""
    running = engine(tmp_path, "model.router.truncation=0.35", "train.clip=null")
    inputs = {"equal": torch.ones(8, 1, 8, 8), "zero": torch.zeros(8, 1, 8, 8), "tiny": torch.full((8, 1, 8, 8), 1e-42)}
    for step, image in enumerate(inputs.values()):
        done = running.step(step, batch()._replace(inputs=image), trace=True)
        assert done.fault is None
        orphans = torch.cat([c_BUV.sum(dim=1).flatten() == 0 for c_BUV in done.forward.passages[0].compatibility])
        assert orphans.any()
    before = {name: value.clone() for name, value in running.model.state_dict().items()}
    scaled(running, monkeypatch, 0.0)
    for group in running.optimizer.param_groups:
        group["weight_decay"] = 0.0
    running.optimizer.state.clear()
    assert running.step(4, batch(), trace=False).fault is None
    assert same(before, running.model.state_dict())
    assert all(parameter.isfinite().all() for parameter in running.model.parameters())


def test_the_module_at_fault_is_named(tmp_path: Path) -> None:
    """The innermost, wherever it is; a gradient by its parameter."""
    running = engine(tmp_path)
    with torch.no_grad():
        modules = running.model.get_submodule("scripts.0.type_inference").named_modules(
            prefix="scripts.0.type_inference"
        )
        name, linear = next((name, module) for name, module in modules if isinstance(module, nn.Linear))
        linear.weight[0, 0] = torch.inf
    fault = running.step(0, batch(), trace=False).fault
    assert fault is not None
    assert fault.endswith("and the norm of the gradient nan")  # no type, no function: the loss itself looks healthy
    assert running.diagnose(batch()).words(torch.arange(8)).endswith(f"; first that is not finite: {name}")


class Poisoned:
    """A part of a data set in which one sample is not a number."""

    def __init__(self, split: Any, sample: int) -> None:
        self.split, self.sample = split, sample

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        batch = self.split.batch(index_B, key_B)
        batch.inputs[index_B == self.sample] = torch.nan
        return batch


class Opened:
    """Data of which one part is another."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = parts

    def open(self) -> Mapping[str, Any]:
        return self.parts


Poison = Callable[..., None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Poisons one sample of a part of the data of every run from here on."""
    from ni_framework.training import train as trainer

    original = trainer.build_data

    def apply(part: str, sample: int) -> None:
        def build(recipe: Recipe) -> Opened:
            parts = dict(original(recipe).open())
            return Opened(parts | {part: Poisoned(parts[part], sample)})

        monkeypatch.setattr(trainer, "build_data", build)

    return apply


def test_a_bad_sample_in_the_data(tmp_path: Path, poison: Poison) -> None:
    """Its steps are skipped and told, the run ends well, and one that was resumed is the same to the last bit."""
    poison("train", 17)
    recipe = small_recipe(tmp_path, "train.steps=240", "train.log_every=40")
    heard = Warnings()
    summary = train(recipe, tmp_path / "run", every=100, listeners=[heard])
    told = [message for message in heard.messages if "was skipped" in message]
    assert len(told) == 1  # an epoch has 175 steps
    assert "samples of the training part: 17; first that is not finite: the input itself" in told[0]
    assert '"warning": "step ' in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert summary["metrics"]["train/loss"] < 2.6
    resume(tmp_path / "run" / "checkpoints" / "step-100", run=tmp_path / "again")
    assert left_behind(tmp_path / "again") == left_behind(tmp_path / "run")


def test_a_bad_sample_in_the_held_out_part(tmp_path: Path, poison: Poison) -> None:
    """Stops and changes nothing; what cannot be told is null in the files."""
    recipe = small_recipe(tmp_path, "train.evaluate_every=2")
    train(recipe, tmp_path / "good")
    poison("test", 3)
    summary = train(recipe, tmp_path / "run")
    assert summary["metrics"]["test/loss"] != summary["metrics"]["test/loss"]
    assert '"test/loss": null' in (tmp_path / "run" / "metrics.jsonl").read_text()
    weights = [(newest_good(tmp_path / name)[0] / "model.safetensors").read_bytes() for name in ("good", "run")]
    assert weights[0] == weights[1]
    assert newest_good(tmp_path / "run")[1].metrics["test/loss"] is None


class Ruin:
    """Makes a weight of the model not finite after a step, as a broken memory would."""

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


def test_the_budget_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many in a row; what was saved before stays, and nothing worse comes in its place."""
    recipe = small_recipe(tmp_path, "train.steps=90", "train.skip.budget=2")
    heard = Warnings()
    with pytest.raises(RunError) as caught:
        train(recipe, tmp_path / "run", every=5, keep=1, listeners=[heard, Ruin(7, monkeypatch)])
    message = str(caught.value)
    assert message.startswith(
        "step 9: 2 steps in a row were skipped, the last because the loss is nan; samples of the "
    )
    assert message.endswith("lower train.optimizer.lr, set train.clip, mend the data, or raise train.skip.budget")
    assert len([told for told in heard.messages if "was skipped" in told]) == 2
    checkpoint, manifest, faults = newest_good(tmp_path / "run")
    assert (manifest.step, faults) == (5, [])
    assert [entry.name for entry in (tmp_path / "run" / "checkpoints").glob("step-*")] == [checkpoint.name]


def test_the_budget_ends_the_run_with_good_weights(tmp_path: Path, poison: Poison) -> None:
    """Where only the data are bad, the last good weights are saved before the error is told."""
    recipe = small_recipe(tmp_path, "train.steps=200", "train.skip.budget=1")
    poison("train", 17)
    with pytest.raises(RunError, match=r"1 steps in a row were skipped") as caught:
        train(recipe, tmp_path / "run")
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    assert newest_good(tmp_path / "run")[1].step == step


def test_spikes_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a hundred losses, one ten deviations above them; with `spike: null` and among the first hundred none is."""
    for overrides, steps, skipped in ((), 101, True), (("train.skip.spike=null",), 101, False), ((), 50, False):
        running = engine(tmp_path, *overrides)
        for step in range(steps):
            assert running.step(step, batch(step), trace=False).fault is None
        before = state(running)
        with monkeypatch.context() as context:
            scaled(running, context, 30.0)
            fault = running.step(steps, batch(steps), trace=False).fault
        assert (fault is not None) == skipped
        assert same(before, state(running)) == skipped
        if fault:
            assert "a spike: the recent ones are " in fault
            assert running.step(steps + 1, batch(steps), trace=False).fault is None
            assert running.guard.skipped == 0


def test_collapse_raises_an_alarm(tmp_path: Path) -> None:
    """Once for each function, with the third line in a row; also where the run was resumed in between."""
    closed = "model.router={use: kernel, truncation: 0.35}"
    recipe = small_recipe(tmp_path, "train.steps=8", "train.log_every=1", closed, "seed=6")
    heard = Warnings()
    train(recipe, tmp_path / "run", every=2, listeners=[heard])
    alarms = [message for message in heard.messages if "collapsed" in message]
    remedy = "; lower train.optimizer.lr, raise model.router.truncation or bandwidth, or use fewer functions"
    assert alarms == [
        f"functions have collapsed: f0 of script0 takes nothing any more{remedy}",
        f"functions have collapsed: f1 takes 100.0% of what script0 computes{remedy}",
        f"functions have collapsed: f2 of script0 takes nothing any more{remedy}",
    ]
    again = Warnings()
    resume(tmp_path / "run" / "checkpoints" / "step-2", run=tmp_path / "again", listeners=[again])
    assert again.messages == alarms
    later = Warnings()
    resume(tmp_path / "run" / "checkpoints" / "step-4", run=tmp_path / "later", listeners=[later])
    assert later.messages == []


def test_one_function_alone_is_no_collapse() -> None:
    """Nor are uneven shares; a function that comes back is counted anew."""
    collapse = Collapse()
    assert not any(collapse.alarms({"routing/use/script0/f0": 1.0}) for _ in range(9))
    uneven = {"routing/use/script0/f0": 0.989, "routing/use/script0/f1": 0.011}
    assert not any(collapse.alarms(uneven) for _ in range(9))
    gone = {"routing/use/script0/f0": 0.5, "routing/use/script0/f1": 0.5, "routing/use/script0/f2": 0.0}
    back = gone | {"routing/use/script0/f2": 0.1}
    lines = [gone, gone, back, gone, gone, gone, gone]
    assert [len(collapse.alarms(line)) for line in lines] == [0, 0, 0, 0, 0, 1, 0]
