"""The lockfile, the golden batch, and `verify`, which reports what differs from when a checkpoint was saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from ni_framework.checkpoint.lockfile import build_lockfile, compare_lockfiles, data_fingerprint
from ni_framework.checkpoint.verify import verify
from ni_framework.errors import CheckpointError
from ni_framework.model.compose import build_data
from ni_framework.registry.resolve import resolve_component
from ni_framework.training.train import resume, train
from tests.checkpoint.test_resume import WarningCollector
from tests.helpers.small_recipe import load_small_recipe, rewrite_checkpoint_file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A trained checkpoint with EMA weights."""
    recipe = load_small_recipe(tmp_path, "train.steps=4", "train.ema_decay=0.9")
    return Path(train(recipe, tmp_path / "run", checkpoint_every=2)["checkpoint"])


def test_unchanged_checkpoint_has_no_differences(checkpoint: Path) -> None:
    result = verify(checkpoint)
    assert result.compared == ("7 files", "8 components", "golden batch", "data")
    assert result.differences == ()
    assert result.not_compared == ()


def change_weights(checkpoint: Path, name: str) -> None:
    """Changes one tensor in a file of weights, and its entry in the manifest."""
    tensors = load_file(checkpoint / name)
    tensors["scripts.0.embedding.code"] += 0.1
    rewrite_checkpoint_file(checkpoint, name, save(tensors))


def test_changed_weights_are_found_by_the_golden_batch(checkpoint: Path) -> None:
    """Also if the manifest agrees with them; the golden batch uses the EMA weights, because these are loaded."""
    change_weights(checkpoint, "model.safetensors")
    assert verify(checkpoint).differences == ()
    change_weights(checkpoint, "average.safetensors")
    (difference,) = verify(checkpoint).differences
    assert difference.startswith("golden batch, digits: outputs differ by up to ")


def change_lockfile(checkpoint: Path, change: Any) -> None:
    """Applies `change` to the lockfile of a checkpoint."""
    lock = json.loads((checkpoint / "lock.json").read_text())
    change(lock)
    rewrite_checkpoint_file(checkpoint, "lock.json", json.dumps(lock).encode())


def test_changes_of_the_environment_are_named(checkpoint: Path) -> None:
    """By their key in the lockfile, with the old and the new value."""

    def change(lock: dict[str, Any]) -> None:
        lock["torch"] = "1.0"
        lock["components"]["model.router"]["source_sha256"] = "0" * 64
        lock["components"]["model.body.linear"]["version"] = "9.9"
        lock["data"]["train"]["samples"] = 7

    change_lockfile(checkpoint, change)
    torch_now, *others = verify(checkpoint).differences
    assert torch_now == f"torch: was 1.0, is {torch.__version__}"
    assert others[0].startswith("components.model.router.source_sha256: was 000000000000..., is ")
    assert others[1] == "components.model.body.linear.version: was 9.9, is 0.1.0"
    assert others[2] == "data.train.samples: was 7, is 1400"


def test_lockfile_contains_every_component(tmp_path: Path) -> None:
    """Also those inside others, and those of each script, with their options."""
    recipe = load_small_recipe(
        tmp_path, "model.router={use: function_dropout, inner: stochastic_kernel}", "model.scripts=[{}, {}]"
    )
    components: Mapping[str, Any] = build_lockfile(recipe, None)["components"]
    inner = components["model.scripts.1.router.inner"]
    assert inner["component"] == "router/stochastic_kernel"
    assert inner["distribution"] == "ni-framework"
    assert inner["api"] == resolve_component("router", "stochastic_kernel").api
    assert inner["entry_point"] == "ni_standard.routers.sampled_kernels:StochasticKernel"
    assert len(inner["source_sha256"]) == 64
    assert components["model.input"]["options"]["patch"] == 4
    assert {"data", "model.head", "model.scripts.0.body.linear"} <= components.keys()
    assert "model.router" not in components, "each script has its own router"
    assert compare_lockfiles(build_lockfile(recipe, None), build_lockfile(recipe, None)) == []


def test_data_fingerprint_covers_the_contents(tmp_path: Path) -> None:
    """A small change of one sample that the fingerprint reads changes it."""
    split = build_data(load_small_recipe(tmp_path)).open()["train"]
    first = data_fingerprint(split)
    assert first["samples"] == 1400
    assert data_fingerprint(split) == first

    class Changed:
        def __len__(self) -> int:
            return len(split)

        def batch(self, index_B: torch.Tensor, key_B: torch.Tensor | None) -> Any:
            batch = split.batch(index_B, key_B)
            batch.inputs[-1, 0, 0, 0] += 1e-6
            return batch

    assert data_fingerprint(Changed())["sha256"] != first["sha256"]


def test_resume_with_other_code_or_other_data(checkpoint: Path, tmp_path: Path) -> None:
    """Other code is a warning, other data are an error before the run starts."""
    earlier = checkpoint.with_name("step-2")
    change_lockfile(earlier, lambda lock: lock.update(torch="1.0"))
    collector = WarningCollector()
    resume(earlier, run_dir=tmp_path / "other", listeners=[collector])
    assert collector.messages == [
        f"differs from when the checkpoint was saved, so the run may continue differently: torch: was 1.0, is {torch.__version__}"
    ]
    change_lockfile(earlier, lambda lock: lock["data"]["train"].update(samples=7))
    with pytest.raises(
        CheckpointError,
        match=r"was trained on different data \(data.train.samples: was 7, is 1400\); restore that data",
    ):
        resume(earlier, run_dir=tmp_path / "third")
