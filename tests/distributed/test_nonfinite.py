"""A value that is not finite on one rank: no rank takes the step, and all ranks end alike."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, WEIGHTS_FILE, check_files
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.testing.workers.pool import WorkerPool

NONFINITE_OVERRIDES = ["train.ema_decay=0.9", "train.micro_batches=4", "engine.use=zero", "model.scripts=2"]
NONFINITE = "tests.helpers.rank_functions.nonfinite"
POISONED_MODULE = "scripts.1.body.lines.0.maps.out"


def collect_field(results: list[dict[str, Any]], name: str) -> list[Any]:
    return [result[name] for result in results]


def is_newest_checkpoint_finite(run: Path) -> bool:
    """Returns whether all weights in the newest checkpoint are finite, after checking its files."""
    folder = find_checkpoint(run)
    manifest = check_files(folder)
    return all(
        bool(tensor.isfinite().all())
        for part in (WEIGHTS_FILE, EMA_WEIGHTS_FILE)
        for tensor in TensorReader(folder, manifest, part).read_all().values()
    )


@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", range(4))
def test_nan_in_one_input_element_skips_the_step(
    two_ranks: WorkerPool, tmp_path: Path, stage: int, precision: str, times: int
) -> None:
    """At random steps: not one bit of weights, EMA weights and optimizer state changes on any rank; training continues."""
    generator = random.Random(f"{stage}{precision}")
    steps = 2 * times + 4
    chosen = generator.sample(range(2, steps + 1), times)
    places = {step: [generator.randrange(2), generator.randrange(4), generator.randrange(64)] for step in chosen}
    settings = [
        f"train.steps={steps}",
        f"engine.stage={stage}",
        f"train.precision={precision}",
        "train.skip.max_consecutive=50",
    ]
    results = two_ranks.call(
        f"{NONFINITE}:train_with_nonfinite_input", str(tmp_path / "run"), [*NONFINITE_OVERRIDES, *settings], places
    )
    assert collect_field(results, "text") == ["", ""]
    for result in results:
        assert {int(step) for step, changed in result["changed"].items() if not changed} == places.keys()
        assert len(result["changed"]) == steps
    warnings = {step: text for step, text in results[0]["warnings"] if "was skipped" in text}
    assert warnings.keys() == places.keys()
    for step, (rank, _, _) in places.items():
        sample = results[rank]["samples"][str(step)]
        assert warnings[step] == (
            f"step {step} was skipped: the loss is nan; in process {rank}: samples of the training part: {sample}; "
            "first that is not finite: the input itself"
        )
    assert is_newest_checkpoint_finite(tmp_path / "run")


@pytest.mark.parametrize("stage", range(4))
def test_nan_at_every_step_ends_all_ranks(two_ranks: WorkerPool, tmp_path: Path, stage: int) -> None:
    """After the allowed number of skipped steps, with the last good weights."""
    settings = ["train.steps=9", f"engine.stage={stage}", "train.skip.max_consecutive=3"]
    places = {step: [1, 2, 7] for step in range(4, 10)}
    results = two_ranks.call(
        f"{NONFINITE}:train_with_nonfinite_input", str(tmp_path / "run"), [*NONFINITE_OVERRIDES, *settings], places
    )
    assert collect_field(results, "error") == ["RunError", "RunError"]
    assert len(set(collect_field(results, "text"))) == 1
    sample = results[1]["samples"]["6"]
    assert results[0]["text"] == (
        "step 6: 3 steps in a row were skipped, the last because the loss is nan; in process 1: samples of the training "
        f"part: {sample}; first that is not finite: the input itself; lower train.optimizer.lr, set train.max_grad_norm, fix the "
        "data, or raise train.skip.max_consecutive"
    )
    assert [step for step, changed in results[0]["changed"].items() if changed] == ["1", "2", "3"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stage", [0, 1])
def test_nan_weight_on_one_rank_ends_all_ranks(two_ranks: WorkerPool, tmp_path: Path, stage: int, rank: int) -> None:
    """Each rank has a copy of all weights, of which one is damaged: both ranks end, and the module is named."""
    settings = ["train.steps=9", f"engine.stage={stage}", "train.skip.max_consecutive=3"]
    run = str(tmp_path / "run")
    results = two_ranks.call(
        f"{NONFINITE}:train_with_nonfinite_weight",
        run,
        [*NONFINITE_OVERRIDES, *settings],
        rank,
        2,
        f"{POISONED_MODULE}.weight",
    )
    assert collect_field(results, "error") == ["RunError", "RunError"]
    assert len(set(collect_field(results, "text"))) == 1
    assert "step 5: 3 steps in a row were skipped" in results[0]["text"]
    assert f"in process {rank}: samples of the training part: " in results[0]["text"]
    assert f"first that is not finite: {POISONED_MODULE}" in results[0]["text"]
    assert f"in process {1 - rank}" not in results[0]["text"]


@pytest.mark.parametrize("stage", range(4))
def test_nan_gradient_on_one_rank_ends_all_ranks(two_ranks: WorkerPool, tmp_path: Path, stage: int) -> None:
    """The gradient is reduced over all ranks; each rank names its parameter, wherever it is stored."""
    settings = ["train.steps=9", f"engine.stage={stage}", "train.skip.max_consecutive=3"]
    run, name = str(tmp_path / "run"), f"{POISONED_MODULE}.weight"
    results = two_ranks.call(
        f"{NONFINITE}:train_with_nonfinite_gradient", run, [*NONFINITE_OVERRIDES, *settings], 1, 2, name
    )
    assert collect_field(results, "error") == ["RunError", "RunError"]
    assert len(set(collect_field(results, "text"))) == 1
    assert "step 5: 3 steps in a row were skipped" in results[0]["text"]
    assert "and the norm of the gradient " in results[0]["text"]
    assert results[0]["text"].count(f"first that is not finite: the gradient of {name};") == 2


@pytest.mark.parametrize("stage", [0, 3])
def test_loss_spike_is_judged_by_the_loss_of_all_ranks(two_ranks: WorkerPool, tmp_path: Path, stage: int) -> None:
    """All ranks decide alike."""
    settings = ["train.steps=6", f"engine.stage={stage}", "train.skip.max_deviation=10"]
    # The mean is 2.4 and the standard deviation 5 % of it: a spike is above 3.6. The factors apply to half of the loss.
    results = two_ranks.call(
        f"{NONFINITE}:train_with_loss_spikes",
        str(tmp_path / "run"),
        [*NONFINITE_OVERRIDES, *settings],
        1,
        {"3": 1.5, "5": 3.0},
    )
    assert results[0] == results[1]
    assert list(results[0]["skipped"]) == ["5"]
    assert "a spike: the recent ones are 2.4" in results[0]["skipped"]["5"]
