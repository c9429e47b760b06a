"""Growth of a run with two ranks, which is then trained with two ranks and with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE, check_files
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.growth.grow import GrowOptions, grow_checkpoint
from ni_framework.testing.workers.pool import WorkerPool
from ni_framework.training.train import resume
from tests.distributed.test_resharding import engine_overrides

RESHARDING = "tests.helpers.rank_functions.resharding"
# For AdamW, as between all engines.
GROWN_TOLERANCE = 1e-5
FROZEN_MOMENT = "engine/optimizer/exp_avg/scripts.0.type_inference.layers.1.weight"


def read_newest_tensors(run: Path, name: str) -> dict[str, Tensor]:
    folder = find_checkpoint(run)
    return TensorReader(folder, check_files(folder), name, verified=True).read_all()


@pytest.fixture(scope="module")
def grown_runs(
    two_ranks: WorkerPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, str], tuple[Path, Path]]:
    """Runs of two ranks, and the grown runs, by stage and by what is frozen."""
    folder = tmp_path_factory.mktemp("grown")
    runs = {}
    for stage in (0, 1, 2, 3):
        run = folder / f"stage{stage}"
        two_ranks.call(
            f"{RESHARDING}:train_small",
            str(run),
            ["train.steps=3", "train.ema_decay=0.9", *engine_overrides((stage, 2))],
        )
        for freeze in ("old", "none"):
            grown = folder / f"stage{stage}-{freeze}"
            options = GrowOptions(
                add=2, init="near=f1", body="{use: experts, heads: 2, key: 3}" if stage % 2 else None, freeze=freeze
            )
            assert grow_checkpoint(run, grown, options)["change"]["computed"] == 0
            runs[stage, freeze] = run, grown
    return runs


@pytest.mark.parametrize("freeze", ["old", "none"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_grown_run_resumes_on_two_ranks_and_one(
    grown_runs: dict[tuple[int, str], tuple[Path, Path]], two_ranks: WorkerPool, tmp_path: Path, stage: int, freeze: str
) -> None:
    """New functions learn, with the same result on two ranks with DeepSpeed and on one without."""
    run, grown = grown_runs[stage, freeze]
    more = ["train.steps=7"]
    jobs: list[dict[str, Any]] = [{"path": str(grown), "overrides": more, "run": str(tmp_path / "two")}]
    two_ranks.call(f"{RESHARDING}:run_all", jobs)
    resume(grown, [*more, *engine_overrides((None, 1))], tmp_path / "one")
    two, one = (read_newest_tensors(tmp_path / name, WEIGHTS_FILE) for name in ("two", "one"))
    # Growth starts from the EMA weights, and does not change them where they are frozen.
    before = read_newest_tensors(run, EMA_WEIGHTS_FILE)
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=0, atol=GROWN_TOLERANCE), name
    code = "scripts.0.embedding.code"
    assert not torch.equal(two[code][3:], read_newest_tensors(grown, WEIGHTS_FILE)[code][3:])
    assert two["scripts.0.gates"].all()
    unchanged = {name: torch.equal(two[name][: len(v)] if v.ndim else two[name], v) for name, v in before.items()}
    assert all(unchanged.values()) == (freeze == "old"), unchanged
    if freeze == "old":
        # The optimizer state of frozen weights is kept, with any number of ranks.
        again = [{"path": str(tmp_path / "two"), "overrides": ["train.steps=8"], "run": str(tmp_path / "again")}]
        two_ranks.call(f"{RESHARDING}:run_all", again)
        for resumed in (tmp_path / "two", tmp_path / "again", tmp_path / "one"):
            assert torch.equal(
                read_newest_tensors(resumed, TRAINING_STATE_FILE)[FROZEN_MOMENT],
                read_newest_tensors(run, TRAINING_STATE_FILE)[FROZEN_MOMENT],
            )
        ema_weights = read_newest_tensors(tmp_path / "again", EMA_WEIGHTS_FILE)
        assert torch.equal(ema_weights[code][:3], read_newest_tensors(run, EMA_WEIGHTS_FILE)[code])
