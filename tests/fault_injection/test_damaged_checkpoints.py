"""Damaged, swapped and stale files: every one is detected, and a run is resumed from the newest intact checkpoint."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from ni_framework.checkpoint.manifest import MANIFEST_FILE, check_files
from ni_framework.checkpoint.run_dir import (
    find_checkpoint,
    find_latest_valid,
    list_checkpoints,
    prune_checkpoints,
    read_latest,
    write_latest,
)
from ni_framework.errors import CheckpointError
from ni_framework.training.train import train
from tests.helpers.small_recipe import load_small_recipe, save_small_checkpoint


@pytest.fixture(scope="module")
def undamaged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 1 to 4."""
    folder = tmp_path_factory.mktemp("undamaged")
    train(load_small_recipe(folder, "train.steps=4", "train.ema_decay=0.9"), folder / "run", checkpoint_every=1)
    return folder / "run"


@pytest.fixture
def run_copy(undamaged_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(undamaged_run, tmp_path / "run"))


def assert_damage_is_found(folder: Path, file: Path) -> None:
    """Asserts that a check of the checkpoint names the damaged file; an error of the manifest may name the folder instead."""
    with pytest.raises(CheckpointError) as caught:
        check_files(folder)
    assert str(file) in str(caught.value) or (file.name == MANIFEST_FILE and str(folder) in str(caught.value))


def test_every_bit_flip_is_found(run_copy: Path) -> None:
    """A thousand flips of one bit in any file, the manifest included."""
    generator = random.Random(1)
    folder = find_checkpoint(run_copy)
    files = sorted(folder.iterdir())
    assert len(files) == 7
    for number in range(1000):
        file = generator.choice(files)
        content = file.read_bytes()
        index = generator.randrange(len(content))
        file.write_bytes(content[:index] + bytes([content[index] ^ 1 << generator.randrange(8)]) + content[index + 1 :])
        assert_damage_is_found(folder, file)
        if number % 50 == 0:
            assert find_latest_valid(run_copy)[0].name == "step-3"
        file.write_bytes(content)
    check_files(folder)


def test_every_truncation_is_found(run_copy: Path) -> None:
    """Two hundred files that are shorter by any number of bytes, also empty ones."""
    generator = random.Random(2)
    folder = find_checkpoint(run_copy)
    for _ in range(200):
        file = generator.choice(sorted(folder.iterdir()))
        content = file.read_bytes()
        file.write_bytes(content[: generator.choice([0, generator.randrange(len(content))])])
        assert_damage_is_found(folder, file)
        file.write_bytes(content)
    check_files(folder)


def test_swapped_and_stale_files_are_found(run_copy: Path) -> None:
    """A file of an older checkpoint, two swapped files of one checkpoint, and two swapped checkpoint folders."""
    older, newer = list_checkpoints(run_copy)[-2:]
    tried = 0
    for file in sorted(newer.iterdir()):
        content = file.read_bytes()
        if (older / file.name).read_bytes() != content:
            shutil.copy(older / file.name, file)
            assert_damage_is_found(newer, file)
            file.write_bytes(content)
            tried += 1
        for other in sorted(newer.iterdir()):
            if other.name < file.name:
                other_content = other.read_bytes()
                other.write_bytes(content)
                file.write_bytes(other_content)
                with pytest.raises(CheckpointError):
                    check_files(newer)
                other.write_bytes(other_content)
                file.write_bytes(content)
                tried += 1
    older.rename(run_copy / "aside")
    newer.rename(older)
    with pytest.raises(CheckpointError, match=r"step-3: contains the checkpoint of step 4"):
        check_files(older)
    assert find_latest_valid(run_copy)[0].name == "step-2"
    assert tried >= 25


INVALID_POINTERS = {
    "empty": b"",
    "garbage": b"\xff\xfe\x00",
    "absolute": b"/etc/passwd\n",
    "outside": b"../../step-4\n",
    "long": b"step-4" + b"4" * 2**20,
    "another name": b"latest\n",
}


@pytest.mark.parametrize("name", INVALID_POINTERS)
def test_invalid_pointer_is_ignored(run_copy: Path, name: str) -> None:
    """The file `latest` is invalid; the newest checkpoint is found without it."""
    (run_copy / "checkpoints" / "latest").write_bytes(INVALID_POINTERS[name])
    assert read_latest(run_copy) is None
    assert find_latest_valid(run_copy)[0].name == "step-4"


def test_pointer_to_the_newest_checkpoint(run_copy: Path) -> None:
    """It may have any line ending, reveals a lost checkpoint, and is not followed if it is a link."""
    pointer = run_copy / "checkpoints" / "latest"
    pointer.write_bytes(b"step-4\r\n")
    assert read_latest(run_copy) == run_copy / "checkpoints" / "step-4"
    shutil.rmtree(run_copy / "checkpoints" / "step-4")
    _, manifest, faults = find_latest_valid(run_copy)
    assert manifest.step == 3
    assert faults == [f"{run_copy}/checkpoints/step-4: is missing, although it was saved last; use another checkpoint"]
    pointer.unlink()
    pointer.symlink_to("step-3")
    assert read_latest(run_copy) is None


def test_pruning_keeps_an_intact_checkpoint(run_copy: Path, tmp_path: Path) -> None:
    """The newest checkpoints are kept; if none of these is intact, nothing is removed."""
    for name in ("step-3", "step-4"):
        weights = run_copy / "checkpoints" / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[::-1])
    prune_checkpoints(run_copy, 2)
    assert len(list_checkpoints(run_copy)) == 4
    prune_checkpoints(run_copy, 3)
    assert [folder.name for folder in list_checkpoints(run_copy)] == ["step-2", "step-3", "step-4"]
    write_latest(save_small_checkpoint(run_copy / "checkpoints" / "step-5", load_small_recipe(tmp_path), 5))
    prune_checkpoints(run_copy, 1)
    assert [folder.name for folder in list_checkpoints(run_copy)] == ["step-5"]
