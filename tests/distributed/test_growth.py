"""Growth of what several processes have written, and training that goes on in as many, fewer, or one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.checkpoint.manifest import AVERAGE, TRAINING, WEIGHTS, check_files
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.growth.grow import Asked, grow
from ni_framework.testing.workers.pool import Processes
from ni_framework.training.train import resume
from tests.distributed.test_resharding import engine_of

WORK = "tests.helpers.rank_functions.resharding"
ROUNDING = 1e-5  # AdamW, as between all engines
IDLE = "engine/optimizer/exp_avg/scripts.0.type_inference.layers.1.weight"


def tensors(run: Path, name: str) -> dict[str, Tensor]:
    folder = find_checkpoint(run)
    return Stored(folder, check_files(folder), name, checked=True).all()


@pytest.fixture(scope="module")
def grown(two: Processes, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], tuple[Path, Path]]:
    """Runs of two processes, and what they have grown to, by stage and by what is held."""
    folder = tmp_path_factory.mktemp("grown")
    found = {}
    for stage in (0, 1, 2, 3):
        run = folder / f"stage{stage}"
        two.call(f"{WORK}:trained", str(run), ["train.steps=3", "train.average=0.9", *engine_of((stage, 2))])
        for freeze in ("old", "none"):
            out = folder / f"stage{stage}-{freeze}"
            asked = Asked(
                add=2, init="near=f1", body="{use: experts, heads: 2, key: 3}" if stage % 2 else None, freeze=freeze
            )
            assert grow(run, out, asked)["change"]["computed"] == 0
            found[stage, freeze] = run, out
    return found


@pytest.mark.parametrize("freeze", ["old", "none"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_goes_on_in_two_processes_and_in_one(
    grown: dict[tuple[int, str], tuple[Path, Path]], two: Processes, tmp_path: Path, stage: int, freeze: str
) -> None:
    """New functions learn, alike in two processes, in one with ZeRO's pieces, and in one without DeepSpeed."""
    run, out = grown[stage, freeze]
    more = ["train.steps=7"]
    jobs: list[dict[str, Any]] = [{"path": str(out), "overrides": more, "run": str(tmp_path / "two")}]
    two.call(f"{WORK}:run_all", jobs)
    resume(out, [*more, *engine_of((None, 1))], tmp_path / "one")
    there, here = (tensors(of, WEIGHTS) for of in (tmp_path / "two", tmp_path / "one"))
    before = tensors(run, AVERAGE)  # what answers, and stays where it is held
    assert there.keys() == here.keys()
    for name, value in here.items():
        assert torch.allclose(there[name], value, rtol=0, atol=ROUNDING), name
    code = "scripts.0.embedding.code"
    assert not torch.equal(there[code][3:], tensors(out, WEIGHTS)[code][3:])
    assert there["scripts.0.gates"].all()
    kept = {name: torch.equal(there[name][: len(v)] if v.ndim else there[name], v) for name, v in before.items()}
    assert all(kept.values()) == (freeze == "old")
    if freeze == "old":  # what was remembered of the others is there still, whoever goes on with them
        again = [{"path": str(tmp_path / "two"), "overrides": ["train.steps=8"], "run": str(tmp_path / "again")}]
        two.call(f"{WORK}:run_all", again)
        for of in (tmp_path / "two", tmp_path / "again", tmp_path / "one"):
            assert torch.equal(tensors(of, TRAINING)[IDLE], tensors(run, TRAINING)[IDLE])
        averages = tensors(tmp_path / "again", AVERAGE)
        assert torch.equal(averages[code][:3], tensors(run, AVERAGE)[code])
