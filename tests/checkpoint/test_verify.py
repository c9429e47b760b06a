"""The lock, the golden batch, and `verify`, which says what is not as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from ni_framework.checkpoint.lockfile import fingerprint, lock_difference, lock_of
from ni_framework.checkpoint.verify import verify
from ni_framework.errors import CheckpointError
from ni_framework.model.compose import build_data
from ni_framework.training.train import resume, train
from tests.checkpoint.test_resume import Warnings
from tests.helpers.small_recipe import rewritten, small_recipe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A trained checkpoint, with averaged weights."""
    recipe = small_recipe(tmp_path, "train.steps=4", "train.average=0.9")
    return Path(train(recipe, tmp_path / "run", every=2)["checkpoint"])


def test_an_untouched_checkpoint(checkpoint: Path) -> None:
    """Is what it was."""
    verdict = verify(checkpoint)
    assert verdict.compared == ("7 files", "8 components", "golden batch", "data")
    assert (verdict.differences, verdict.left_out) == ((), ())


def test_other_weights_show_in_the_golden_batch(checkpoint: Path) -> None:
    """Also where manifest and weights agree; the averaged ones count, for these are what is loaded."""
    for name, seen in (("model.safetensors", False), ("average.safetensors", True)):
        tensors = load_file(checkpoint / name)
        tensors["scripts.0.embedding.code"] += 0.1
        rewritten(checkpoint, name, save(tensors))
        (*differences,) = verify(checkpoint).differences
        assert [text.startswith("golden batch, digits: outputs differ by up to ") for text in differences] == [
            True
        ] * seen


def relocked(checkpoint: Path, change: Any) -> None:
    """The checkpoint with another lock."""
    lock = json.loads((checkpoint / "lock.json").read_text())
    change(lock)
    rewritten(checkpoint, "lock.json", json.dumps(lock).encode())


def test_what_differs_is_named(checkpoint: Path) -> None:
    """By its place in the lock, with what it was and what it is."""

    def change(lock: dict[str, Any]) -> None:
        lock["torch"] = "1.0"
        lock["components"]["model.router"]["source_sha256"] = "0" * 64
        lock["components"]["model.body.linear"]["version"] = "9.9"
        lock["data"]["train"]["samples"] = 7

    relocked(checkpoint, change)
    torch_now, *others = verify(checkpoint).differences
    assert torch_now == f"torch: was 1.0, is {torch.__version__}"
    assert others[0].startswith("components.model.router.source_sha256: was 000000000000..., is ")
    assert others[1] == "components.model.body.linear.version: was 9.9, is 0.1.0"
    assert others[2] == "data.train.samples: was 7, is 1400"


def test_a_lock_tells_of_every_component(tmp_path: Path) -> None:
    """Those inside of others and of each script too, with their options."""
    recipe = small_recipe(
        tmp_path, "model.router={use: function_dropout, inner: stochastic_kernel}", "model.scripts=[{}, {}]"
    )
    components: Mapping[str, Any] = lock_of(recipe, None)["components"]
    inner = components["model.scripts.1.router.inner"]
    assert (inner["component"], inner["distribution"], inner["api"]) == ("router/stochastic_kernel", "ni-framework", 1)
    assert inner["entry_point"] == "ni_standard.routers.sampled_kernels:StochasticKernel"
    assert len(inner["source_sha256"]) == 64
    assert components["model.input"]["options"]["patch"] == 4
    assert {"data", "model.head", "model.scripts.0.body.linear"} <= components.keys()
    assert "model.router" not in components  # each script has its own
    assert lock_difference(lock_of(recipe, None), lock_of(recipe, None)) == []


def test_a_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    """Each sample that it looks at counts, and their number."""
    split = build_data(small_recipe(tmp_path)).open()["train"]
    first = fingerprint(split)
    assert first["samples"] == 1400
    assert fingerprint(split) == first

    class Changed:
        def __len__(self) -> int:
            return len(split)

        def batch(self, index_B: torch.Tensor, key_B: torch.Tensor | None) -> Any:
            batch = split.batch(index_B, key_B)
            batch.inputs[-1, 0, 0, 0] += 1e-6
            return batch

    assert fingerprint(Changed())["sha256"] != first["sha256"]


def test_resumed_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    """Other code is told, other data end the run before it begins."""
    earlier = checkpoint.with_name("step-2")
    relocked(earlier, lambda lock: lock.update(torch="1.0"))
    heard = Warnings()
    resume(earlier, run=tmp_path / "other", listeners=[heard])
    assert heard.messages == [
        f"not as when it was saved, so the run may go on otherwise: torch: was 1.0, is {torch.__version__}"
    ]
    relocked(earlier, lambda lock: lock["data"]["train"].update(samples=7))
    with pytest.raises(
        CheckpointError, match=r"was trained on other data \(data.train.samples: was 7, is 1400\); restore them"
    ):
        resume(earlier, run=tmp_path / "third")
