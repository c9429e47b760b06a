"""Checkpoints: loading gives what was saved; every damaged, foreign or unsuitable checkpoint is rejected with its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from ni_framework import build_model, load_model
from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.checkpoint.writer import safetensors_chunks
from ni_framework.errors import CheckpointError, RecipeError, RunError
from ni_framework.utils.atomic_files import sha256_hex, write_new
from tests.helpers.small_recipe import load_small_recipe, rewrite_checkpoint_file, save_small_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the small recipe, untrained."""
    recipe = load_small_recipe(tmp_path)
    return save_small_checkpoint(tmp_path / "run" / "checkpoints" / "step-6", recipe, 6, metrics={"train/loss": 2.0})


def test_loaded_model_equals_saved_model(tmp_path: Path, checkpoint: Path) -> None:
    """By the path of the checkpoint or of the run; the model is in evaluation mode, and its recipe is loaded too."""
    saved = build_model(load_small_recipe(tmp_path)).eval()
    images = torch.randn(4, 1, 8, 8)
    for path in (checkpoint, tmp_path / "run"):
        loaded = load_model(path)
        assert not loaded.training
        assert torch.equal(loaded(images)["digits"], saved(images)["digits"])
    assert load_checkpoint(checkpoint)[1] == load_small_recipe(tmp_path)


def test_newest_checkpoint_of_a_run_is_loaded(tmp_path: Path, checkpoint: Path) -> None:
    """The newest is the one with the highest step."""
    recipe = load_small_recipe(tmp_path, "seed=9")
    save_small_checkpoint(tmp_path / "run" / "checkpoints" / "step-8", recipe, 8)
    assert load_checkpoint(tmp_path / "run")[1].seed == 9


def test_iterations_may_change_after_training(checkpoint: Path) -> None:
    """An override may change them, because no parameter depends on them."""
    model, recipe = load_checkpoint(checkpoint, ["model.iterations=5"])
    assert model.iterations == (5,)
    assert recipe.model.iterations == 5


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "one bit of the weights": (
        lambda folder: flip_bit(folder / "model.safetensors"),
        "{folder}/model.safetensors: is damaged (its checksum differs); use another checkpoint",
    ),
    "the recipe": (
        lambda folder: (folder / "recipe.yaml").write_text("ni: 1\n"),
        "{folder}/recipe.yaml: is damaged (it has 6 bytes, not {size:,}); use another checkpoint",
    ),
    "a longer file": (
        lambda folder: (folder / "recipe.yaml").write_text("#" * 2000),
        "{folder}/recipe.yaml: is longer than {size:,} bytes; use another checkpoint",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "{folder}/model.safetensors: cannot be read: No such file or directory; use another checkpoint",
    ),
    "a link": (
        lambda folder: (
            (folder / "model.safetensors").rename(folder.parent / "weights"),
            (folder / "model.safetensors").symlink_to("../weights"),
        ),
        "{folder}/model.safetensors: is a link, not a regular file; use another checkpoint",
    ),
    "a blank in the manifest": (
        lambda folder: (folder / "checkpoint.json").write_bytes((folder / "checkpoint.json").read_bytes() + b" "),
        "{folder}/checkpoint.json: is damaged (its checksum differs); use another checkpoint",
    ),
    "another manifest": (
        lambda folder: (folder / "checkpoint.json").write_text("[]"),
        "{folder}/checkpoint.json: is not a manifest of ni_framework (TypeError: list indices must be integers or slices, not "
        "str); name another checkpoint",
    ),
    "another step": (
        lambda folder: folder.rename(folder.with_name("step-8")),
        "{run}/checkpoints/step-8: contains the checkpoint of step 6; use another checkpoint",
    ),
    "a newer format": (
        lambda folder: (folder / "checkpoint.json").write_text('{"format": 5}'),
        "{folder}/checkpoint.json: has checkpoint format 5, this version of ni_framework reads format 4; "
        "upgrade ni_framework",
    ),
    "format 3": (
        lambda folder: (folder / "checkpoint.json").write_text('{"format": 3}'),
        "{folder}/checkpoint.json: has checkpoint format 3, this version of ni_framework reads format 4; "
        "load it with the version of ni_framework that wrote it, or train again from its recipe",
    ),
    "format 1": (
        lambda folder: (folder / "checkpoint.json").write_text('{"format": 1}'),
        "{folder}/checkpoint.json: has checkpoint format 1, this version of ni_framework reads format 4; "
        "load it with the version of ni_framework that wrote it, or train again from its recipe",
    ),
    "no format number": (
        lambda folder: (folder / "checkpoint.json").write_text('{"format": true}'),
        "{folder}/checkpoint.json: has checkpoint format True, this version of ni_framework reads format 4; "
        "name another checkpoint",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file_is_reported(name: str, checkpoint: Path) -> None:
    """The error names the file and the damage, and has the exit code of checkpoints."""
    damage, message = DAMAGE[name]
    size = (checkpoint / "recipe.yaml").stat().st_size
    damage(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        load_model(checkpoint.parents[1])
    assert str(caught.value) == message.format(size=size, folder=checkpoint, run=checkpoint.parents[1])
    assert caught.value.exit_code == 6


def test_missing_folder_and_folder_without_checkpoint(tmp_path: Path) -> None:
    """The error names what to give instead."""
    with pytest.raises(
        CheckpointError, match=r"nowhere: there is no such checkpoint; name a checkpoint folder or a run"
    ):
        load_model(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=r"contains no checkpoint; name a folder with a checkpoint.json, or a run"
    ):
        load_model(tmp_path)


def test_weights_of_another_model_are_rejected(checkpoint: Path) -> None:
    """The error names the first weight that does not fit, and how many others there are."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(checkpoint, ["model.code=6"])
    assert str(caught.value) == (
        f"{checkpoint}: does not fit the model: it has scripts.0.embedding.code of shape [3, 5] (float32), "
        "the model shape [3, 6] (float32) (and 6 more); "
        "use a recipe with the same model as the checkpoint's"
    )
    with pytest.raises(CheckpointError, match=r"it lacks scripts\.1\.embedding\.signature \(and \d+ more\)"):
        load_checkpoint(checkpoint, ["model.scripts=2"])


def test_failed_save_keeps_the_old_checkpoint(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has its final name only when it is complete."""

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    recipe = load_small_recipe(tmp_path, "seed=9")
    with pytest.raises(OSError, match="No space left"):
        save_small_checkpoint(checkpoint, recipe, 6)
    assert load_checkpoint(checkpoint)[1].seed == 3


def test_non_persistent_buffers_are_initialized(tmp_path: Path) -> None:
    """Buffers that are in no checkpoint get their initial values; uninitialized memory is NaN in deterministic mode."""
    recipe = load_small_recipe(tmp_path, "model.embedding=none")
    saved = save_small_checkpoint(tmp_path / "step-0", recipe, 0)
    torch.use_deterministic_algorithms(True)
    try:
        model = load_model(saved)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(buffer.any() for buffer in model.buffers())
    assert len(list(model.buffers())) == 1


def test_nonfinite_weights_are_not_saved(tmp_path: Path, checkpoint: Path) -> None:
    """They would replace a good checkpoint."""
    recipe = load_small_recipe(tmp_path)
    model = build_model(recipe)
    with torch.no_grad():
        model.get_parameter("scripts.0.embedding.code")[1, 2] = torch.nan
    with pytest.raises(RunError) as caught:
        save_small_checkpoint(checkpoint.with_name("step-7"), recipe, 7, weights=model.state_dict())
    assert str(caught.value) == (
        "step 7: scripts.0.embedding.code is not finite, so nothing was saved; resume from an earlier checkpoint"
    )
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["step-6"]


def test_files_have_default_permissions(checkpoint: Path) -> None:
    """The files have the permissions of any other new file, as the umask determines them."""
    (checkpoint / "other").write_text("")
    expected = (checkpoint / "other").stat().st_mode
    for name in ("model.safetensors", "lock.json"):
        assert (checkpoint / name).stat().st_mode == expected, name


def test_tensors_are_written_as_safetensors_writes_them() -> None:
    """Byte for byte, whatever their types, shapes and sizes; large tensors are chunks of their own, without a copy."""
    large = torch.randn(700, 700)
    tensors = {
        "transposed": torch.randn(5, 3).t(),
        "bfloat16": torch.randn(2, 2).bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "name \u00e9": torch.ones(1, dtype=torch.uint8),
        "large": large,
    }
    chunks = list(safetensors_chunks(tensors))
    content = b"".join(chunks)
    assert content == save({name: tensor.contiguous() for name, tensor in tensors.items()})
    assert [len(chunk) for chunk in chunks if isinstance(chunk, memoryview)] == [large.nbytes]
    addresses = [
        torch.frombuffer(chunk, dtype=torch.uint8).data_ptr() for chunk in chunks if len(chunk) == large.nbytes
    ]
    assert addresses == [large.data_ptr()], "the large tensor was copied"
    flags = {"flags": torch.tensor([True, False, True])}
    assert torch.equal(load(b"".join(safetensors_chunks(flags)))["flags"], flags["flags"])


def test_write_new_returns_size_and_checksum(tmp_path: Path) -> None:
    """And it never overwrites a file."""
    parts: Any = [b"one", bytearray(b"two"), memoryview(b"three"), b""]
    assert write_new(tmp_path / "file", iter(parts)) == (11, sha256_hex(b"onetwothree"))
    assert (tmp_path / "file").read_bytes() == b"onetwothree"
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", [b"other"])
    assert (tmp_path / "file").read_bytes() == b"onetwothree"


def test_recipe_in_checkpoint_may_not_extend_a_file(checkpoint: Path) -> None:
    """The recipe of a checkpoint has to be complete in itself."""
    rewrite_checkpoint_file(checkpoint, "recipe.yaml", b"extends: ../../../small.yaml\n")
    with pytest.raises(RecipeError, match=r"extends: .*this recipe is a text"):
        load_model(checkpoint)
