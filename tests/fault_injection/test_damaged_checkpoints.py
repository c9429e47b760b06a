"""Damaged, swapped and stale files: every one is found, and a run goes on from the newest checkpoint that is whole."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from ni_framework.checkpoint.manifest import MANIFEST, check_files
from ni_framework.checkpoint.run_dir import checkpoints_of, find_checkpoint, newest_good, point_to, pointed_to, retain
from ni_framework.errors import CheckpointError
from ni_framework.training.train import train
from tests.helpers.small_recipe import save_small, small_recipe


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 1 to 4."""
    folder = tmp_path_factory.mktemp("good")
    train(small_recipe(folder, "train.steps=4", "train.average=0.9"), folder / "run", every=1)
    return folder / "run"


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(good, tmp_path / "run"))


def found(folder: Path, file: Path) -> bool:
    """Whether a check of the checkpoint names the file; a manifest that names others no longer is the one at fault."""
    with pytest.raises(CheckpointError) as caught:
        check_files(folder)
    assert str(file) in str(caught.value) or (file.name == MANIFEST and str(folder) in str(caught.value))
    return True


def test_a_thousand_bit_flips(run: Path) -> None:
    """One bit of any file, the manifest too."""
    generator = random.Random(1)
    folder = find_checkpoint(run)
    files = sorted(folder.iterdir())
    assert len(files) == 7
    for number in range(1000):
        file = generator.choice(files)
        content = file.read_bytes()
        place = generator.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :])
        assert found(folder, file)
        if number % 50 == 0:
            assert newest_good(run)[0].name == "step-3"
        file.write_bytes(content)
    check_files(folder)


def test_two_hundred_truncations(run: Path) -> None:
    """Shorter by any number of bytes, down to none."""
    generator = random.Random(2)
    folder = find_checkpoint(run)
    for _ in range(200):
        file = generator.choice(sorted(folder.iterdir()))
        content = file.read_bytes()
        file.write_bytes(content[: generator.choice([0, generator.randrange(len(content))])])
        assert found(folder, file)
        file.write_bytes(content)
    check_files(folder)


def test_swapped_and_stale_files(run: Path) -> None:
    """Any file of an older checkpoint, two files in each other's place, and whole folders under another's name."""
    older, newer = checkpoints_of(run)[-2:]
    tried = 0
    for file in sorted(newer.iterdir()):
        content = file.read_bytes()
        if (older / file.name).read_bytes() != content:
            shutil.copy(older / file.name, file)
            assert found(newer, file)
            file.write_bytes(content)
            tried += 1
        for other in sorted(newer.iterdir()):
            if other.name < file.name:
                theirs = other.read_bytes()
                other.write_bytes(content)
                file.write_bytes(theirs)
                with pytest.raises(CheckpointError):
                    check_files(newer)
                other.write_bytes(theirs)
                file.write_bytes(content)
                tried += 1
    older.rename(run / "aside")
    newer.rename(older)
    with pytest.raises(CheckpointError, match=r"step-3: holds the checkpoint of step 4"):
        check_files(older)
    assert newest_good(run)[0].name == "step-2"
    assert tried >= 25


POINTERS = {
    "empty": b"",
    "garbage": b"\xff\xfe\x00",
    "absolute": b"/etc/passwd\n",
    "a way out": b"../../step-4\n",
    "long": b"step-4" + b"4" * 2**20,
    "of another": b"latest\n",
}


@pytest.mark.parametrize("name", POINTERS)
def test_a_pointer_that_makes_no_sense(run: Path, name: str) -> None:
    """Is no pointer; what is there is found without it."""
    (run / "checkpoints" / "latest").write_bytes(POINTERS[name])
    assert pointed_to(run) is None
    assert newest_good(run)[0].name == "step-4"


def test_a_pointer(run: Path) -> None:
    """With any line end; a link is none; a lost checkpoint is missed."""
    pointer = run / "checkpoints" / "latest"
    pointer.write_bytes(b"step-4\r\n")
    assert pointed_to(run) == run / "checkpoints" / "step-4"
    shutil.rmtree(run / "checkpoints" / "step-4")
    _, manifest, faults = newest_good(run)
    assert manifest.step == 3
    assert faults == [f"{run}/checkpoints/step-4: is missing, and was saved last; use another checkpoint"]
    pointer.unlink()
    pointer.symlink_to("step-3")
    assert pointed_to(run) is None


def test_retention_keeps_what_is_whole(run: Path, tmp_path: Path) -> None:
    """The newest are kept, and if none of these is whole, nothing is removed."""
    for name in ("step-3", "step-4"):
        weights = run / "checkpoints" / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[::-1])
    retain(run, 2)
    assert len(checkpoints_of(run)) == 4
    retain(run, 3)
    assert [folder.name for folder in checkpoints_of(run)] == ["step-2", "step-3", "step-4"]
    point_to(save_small(run / "checkpoints" / "step-5", small_recipe(tmp_path), 5))
    retain(run, 1)
    assert [folder.name for folder in checkpoints_of(run)] == ["step-5"]
