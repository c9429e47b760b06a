"""Checkpoints: what is loaded is what was saved, and everything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ni_framework import build_model, load_model
from ni_framework.checkpoint.golden import golden_difference
from ni_framework.checkpoint.load import load_checkpoint, read_tensors
from ni_framework.checkpoint.manifest import check_files
from ni_framework.errors import CheckpointError, RecipeError, RunError
from ni_framework.training.train import resume
from tests.helpers.small_recipe import rewritten, save_small, small_recipe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the small recipe, untrained."""
    recipe = small_recipe(tmp_path)
    return save_small(tmp_path / "run" / "checkpoints" / "step-6", recipe, 6, metrics={"train/loss": 2.0})


def test_loaded_model_is_the_saved_one(tmp_path: Path, checkpoint: Path) -> None:
    """By checkpoint and by run folder; in evaluation mode; the recipe comes with it."""
    saved = build_model(small_recipe(tmp_path)).eval()
    images = torch.randn(4, 1, 8, 8)
    for path in (checkpoint, tmp_path / "run"):
        loaded = load_model(path)
        assert not loaded.training
        assert torch.equal(loaded(images)["digits"], saved(images)["digits"])
    assert load_checkpoint(checkpoint)[1] == small_recipe(tmp_path)


def test_newest_checkpoint_of_a_run_is_taken(tmp_path: Path, checkpoint: Path) -> None:
    """By its step."""
    recipe = small_recipe(tmp_path, "seed=9")
    save_small(tmp_path / "run" / "checkpoints" / "step-8", recipe, 8)
    assert load_checkpoint(tmp_path / "run")[1].seed == 9


def test_iterations_may_change_after_training(checkpoint: Path) -> None:
    """They have no parameters."""
    model, recipe = load_checkpoint(checkpoint, ["model.iterations=5"])
    assert model.iterations == (5,)
    assert recipe.model.iterations == 5


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "one bit of the weights": (
        lambda folder: flip(folder / "model.safetensors"),
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
        "{folder}/model.safetensors: is a link, and no plain file; use another checkpoint",
    ),
    "a blank in the manifest": (
        lambda folder: (folder / "checkpoint.json").write_bytes((folder / "checkpoint.json").read_bytes() + b" "),
        "{folder}/checkpoint.json: is damaged (its checksum differs); use another checkpoint",
    ),
    "another manifest": (
        lambda folder: (folder / "checkpoint.json").write_text("[]"),
        "{folder}/checkpoint.json: is no manifest of ni_framework (TypeError: list indices must be integers or slices, not "
        "str); name another checkpoint",
    ),
    "another step": (
        lambda folder: folder.rename(folder.with_name("step-8")),
        "{run}/checkpoints/step-8: holds the checkpoint of step 6; use another checkpoint",
    ),
    "a newer format": (
        lambda folder: (folder / "checkpoint.json").write_text('{"format": 4}'),
        "{folder}: has checkpoint format 4, this ni_framework reads 2 and 3; upgrade ni_framework",
    ),
    "an older format": (
        lambda folder: (folder / "checkpoint.json").write_text('{"format": 1}'),
        "{folder}: has checkpoint format 1, this ni_framework reads 2 and 3; use the ni_framework that wrote it",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, checkpoint: Path) -> None:
    """Nothing is loaded."""
    damage, message = DAMAGE[name]
    size = (checkpoint / "recipe.yaml").stat().st_size
    damage(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        load_model(checkpoint.parents[1])
    assert str(caught.value) == message.format(size=size, folder=checkpoint, run=checkpoint.parents[1])
    assert caught.value.exit_code == 6


def test_absent_and_foreign_folders(tmp_path: Path) -> None:
    """Say what a checkpoint would be."""
    with pytest.raises(
        CheckpointError, match=r"nowhere: there is no such checkpoint; name a checkpoint folder or a run"
    ):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint; name a folder with a checkpoint.json, or a run"):
        load_model(tmp_path)


def test_weights_of_another_model(checkpoint: Path) -> None:
    """What does not fit is named, with how much more there is."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(checkpoint, ["model.code=6"])
    assert str(caught.value) == (
        f"{checkpoint}: does not fit the model: it has scripts.0.embedding.code of shape [3, 5] (float32), "
        "the model shape [3, 6] (float32) (and 6 more); "
        "use a recipe with the same model as the checkpoint's"
    )
    with pytest.raises(CheckpointError, match=r"it lacks scripts\.1\.embedding\.signature \(and \d+ more\)"):
        load_checkpoint(checkpoint, ["model.scripts=2"])


def test_a_failed_save_leaves_the_old_checkpoint(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has its final name only when it is complete."""

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    recipe = small_recipe(tmp_path, "seed=9")
    with pytest.raises(OSError, match="No space left"):
        save_small(checkpoint, recipe, 6)
    assert load_checkpoint(checkpoint)[1].seed == 3


def test_buffers_that_no_checkpoint_holds(tmp_path: Path) -> None:
    """They have their initial values again, not what the memory held: here it holds NaN."""
    recipe = small_recipe(tmp_path, "model.embedding=none")
    saved = save_small(tmp_path / "step-0", recipe, 0)
    torch.use_deterministic_algorithms(True)
    try:
        model = load_model(saved)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(buffer.any() for buffer in model.buffers())
    assert len(list(model.buffers())) == 1


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, checkpoint: Path) -> None:
    """They would push out a good checkpoint."""
    recipe = small_recipe(tmp_path)
    model = build_model(recipe)
    with torch.no_grad():
        model.get_parameter("scripts.0.embedding.code")[1, 2] = torch.nan
    with pytest.raises(RunError) as caught:
        save_small(checkpoint.with_name("step-7"), recipe, 7, weights=model.state_dict())
    assert str(caught.value) == (
        "step 7: scripts.0.embedding.code is not finite, so nothing was saved; go on from an earlier checkpoint"
    )
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["step-6"]


def test_files_have_the_usual_rights(checkpoint: Path) -> None:
    """Those that the umask leaves, as any other file's."""
    (checkpoint / "other").write_text("")
    assert len({(checkpoint / name).stat().st_mode for name in ("model.safetensors", "lock.json", "other")}) == 1


def test_a_recipe_in_a_checkpoint_reads_no_other_file(checkpoint: Path) -> None:
    """It is complete in itself."""
    rewritten(checkpoint, "recipe.yaml", b"extends: ../../../small.yaml\n")
    with pytest.raises(RecipeError, match="extends: needs a file, and this recipe is a text"):
        load_model(checkpoint)


def test_a_checkpoint_of_this_format_stays_readable(tmp_path: Path) -> None:
    """One that an earlier ni_framework has written: it loads, answers as it did, and training goes on from it.

    That the files of some components have changed since is told.
    """
    kept = Path(__file__).parent / "format2"
    manifest = check_files(kept)
    notes: list[str] = []
    model, recipe = load_checkpoint(kept, tell=notes.append)
    (note,) = notes
    assert note.startswith(
        f"{kept}: its model answers as it did, though code has changed since it was saved: type_inference "
    )
    assert note.endswith("of ni-framework 0.1.0, now the same version")
    assert "router" not in note  # its file is what it was
    assert (recipe.train.steps, manifest.step, manifest.evaluated) == (2, 1, False)
    assert golden_difference(model, read_tensors(kept, manifest, "golden.safetensors")) == []
    assert resume(kept, run=tmp_path / "run")["metrics"]["test/accuracy"] > 0
