"""A recipe that trains in a blink, for tests of what happens around training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ni_framework import build_model, load_recipe
from ni_framework.checkpoint.golden import golden_batch
from ni_framework.checkpoint.lockfile import lock_of
from ni_framework.checkpoint.manifest import file_entry, manifest_bytes, read_manifest
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.recipe import Recipe

TEXT = """\
ni: 1
seed: 3
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  scripts: 1
  iterations: 2
  functions: 3
  code: 5
  type: 4
  body: {use: lines_of_code, heads: 2, key: 3}
  head: {use: classify, label_smoothing: 0.1}
data: {use: digits}
train: {steps: 6, batch: 8, log_every: 2, optimizer: {lr: 3.0e-3}}
"""


def small_recipe(folder: Path, *overrides: str) -> Recipe:
    """The small recipe with overrides, written to a folder and read from there."""
    path = folder / "small.yaml"
    path.write_text(TEXT)
    return load_recipe(path, overrides)


def save_small(place: Path, recipe: Recipe, step: int, **changes: Any) -> Path:
    """A checkpoint of a recipe's model with its initial values."""
    model = build_model(recipe)
    snapshot = {"weights": model.state_dict(), "golden": golden_batch(model), "recipe": recipe}
    snapshot |= {"lock": lock_of(recipe, None), "step": step}
    return save_checkpoint(place, Snapshot(**(snapshot | changes)))


def rewritten(checkpoint: Path, name: str, content: bytes) -> None:
    """Puts another file into a checkpoint, with a manifest that agrees."""
    manifest = read_manifest(checkpoint)
    (checkpoint / name).write_bytes(content)
    manifest.files[name] = file_entry(content)
    (checkpoint / "checkpoint.json").write_bytes(manifest_bytes(manifest))
