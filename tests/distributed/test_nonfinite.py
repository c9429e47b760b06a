"""A number that is none, in one process alone: no process takes the step, and all of them end alike."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ni_framework.checkpoint.manifest import AVERAGE, WEIGHTS, check_files
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.testing.workers.pool import Processes

COMMON = ["train.average=0.9", "train.accumulate=4", "engine.use=zero", "model.scripts=2"]
WORK = "tests.helpers.rank_functions.resharding"
MODULE = "scripts.1.body.lines.0.maps.out"


def of(results: list[dict[str, Any]], name: str) -> list[Any]:
    return [result[name] for result in results]


def finite(run: Path) -> bool:
    """Whether the newest checkpoint of a run is whole, and all weights in it are numbers."""
    folder = find_checkpoint(run)
    manifest = check_files(folder)
    return all(
        bool(tensor.isfinite().all())
        for part in (WEIGHTS, AVERAGE)
        for tensor in Stored(folder, manifest, part).all().values()
    )


@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", range(4))
def test_one_element_of_one_input(two: Processes, tmp_path: Path, stage: int, precision: str, times: int) -> None:
    """At random steps: not a bit of weights, averages and moments changes in any process; the others go on."""
    generator = random.Random(f"{stage}{precision}")
    steps = 2 * times + 4
    chosen = generator.sample(range(2, steps + 1), times)
    places = {step: [generator.randrange(2), generator.randrange(4), generator.randrange(64)] for step in chosen}
    settings = [f"train.steps={steps}", f"engine.stage={stage}", f"train.precision={precision}", "train.skip.budget=50"]
    results = two.call(f"{WORK}:poisoned_input", str(tmp_path / "run"), [*COMMON, *settings], places)
    assert of(results, "text") == ["", ""]
    for result in results:
        assert {int(step) for step, changed in result["changed"].items() if not changed} == places.keys()
        assert len(result["changed"]) == steps
    warned = {step: text for step, text in results[0]["warned"] if "was skipped" in text}
    assert warned.keys() == places.keys()
    for step, (rank, _, _) in places.items():
        sample = results[rank]["samples"][str(step)]
        assert warned[step] == (
            f"step {step} was skipped: the loss is nan; in process {rank}: samples of the training part: {sample}; "
            "first that is not finite: the input itself"
        )
    assert finite(tmp_path / "run")


@pytest.mark.parametrize("stage", range(4))
def test_every_step_of_one_process(two: Processes, tmp_path: Path, stage: int) -> None:
    """The budget ends all processes, with the last good weights."""
    settings = ["train.steps=9", f"engine.stage={stage}", "train.skip.budget=3"]
    places = {step: [1, 2, 7] for step in range(4, 10)}
    results = two.call(f"{WORK}:poisoned_input", str(tmp_path / "run"), [*COMMON, *settings], places)
    assert of(results, "error") == ["RunError", "RunError"]
    assert len(set(of(results, "text"))) == 1
    sample = results[1]["samples"]["6"]
    assert results[0]["text"] == (
        "step 6: 3 steps in a row were skipped, the last because the loss is nan; in process 1: samples of the training "
        f"part: {sample}; first that is not finite: the input itself; lower train.optimizer.lr, set train.clip, mend the "
        "data, or raise train.skip.budget"
    )
    assert [step for step, changed in results[0]["changed"].items() if changed] == ["1", "2", "3"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_weight_of_one_process(two: Processes, tmp_path: Path, stage: int, rank: int) -> None:
    """Each process has a copy of all weights, and one copy is spoilt: the budget ends both, and the module is named."""
    settings = ["train.steps=9", f"engine.stage={stage}", "train.skip.budget=3"]
    run = str(tmp_path / "run")
    results = two.call(f"{WORK}:poisoned_weight", run, [*COMMON, *settings], rank, 2, f"{MODULE}.weight")
    assert of(results, "error") == ["RunError", "RunError"]
    assert len(set(of(results, "text"))) == 1
    assert "step 5: 3 steps in a row were skipped" in results[0]["text"]
    assert f"in process {rank}: samples of the training part: " in results[0]["text"]
    assert f"first that is not finite: {MODULE}" in results[0]["text"]
    assert f"in process {1 - rank}" not in results[0]["text"]


@pytest.mark.parametrize("stage", range(4))
def test_a_gradient_of_one_process(two: Processes, tmp_path: Path, stage: int) -> None:
    """Every process has its part in it then; which parameter's it is, all say, wherever it is kept."""
    settings = ["train.steps=9", f"engine.stage={stage}", "train.skip.budget=3"]
    run, name = str(tmp_path / "run"), f"{MODULE}.weight"
    results = two.call(f"{WORK}:poisoned_gradient", run, [*COMMON, *settings], 1, 2, name)
    assert of(results, "error") == ["RunError", "RunError"]
    assert len(set(of(results, "text"))) == 1
    assert "step 5: 3 steps in a row were skipped" in results[0]["text"]
    assert "and the norm of the gradient " in results[0]["text"]
    assert results[0]["text"].count(f"first that is not finite: the gradient of {name};") == 2


@pytest.mark.parametrize("stage", [0, 3])
def test_a_spike_in_one_process(two: Processes, tmp_path: Path, stage: int) -> None:
    """Is one if the loss of all is one, and all judge alike."""
    settings = ["train.steps=6", f"engine.stage={stage}", "train.skip.spike=10"]
    # m = 2.4, s = 0.05 m: a spike is above 3.6, three times one half's loss below.
    results = two.call(f"{WORK}:spiked", str(tmp_path / "run"), [*COMMON, *settings], 1, {"3": 1.5, "5": 3.0})
    assert results[0] == results[1]
    assert list(results[0]["skipped"]) == ["5"]
    assert "a spike: the recent ones are 2.4" in results[0]["skipped"]["5"]
