"""A recipe that trains in less than a second, for tests of everything around training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ni_framework import build_model, load_recipe
from ni_framework.checkpoint.golden import make_golden_batch
from ni_framework.checkpoint.lockfile import build_lockfile
from ni_framework.checkpoint.manifest import encode_manifest, file_entry, read_manifest
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.recipe import Recipe

SMALL_RECIPE_YAML = """\
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


def load_small_recipe(folder: Path, *overrides: str) -> Recipe:
    """Returns the small recipe with overrides, after writing it to a folder."""
    path = folder / "small.yaml"
    path.write_text(SMALL_RECIPE_YAML)
    return load_recipe(path, overrides)


def save_small_checkpoint(folder: Path, recipe: Recipe, step: int, **changes: Any) -> Path:
    """Saves a checkpoint of a recipe's model with its initial values; `changes` replace fields of the snapshot."""
    model = build_model(recipe)
    snapshot = {"weights": model.state_dict(), "golden": make_golden_batch(model), "recipe": recipe}
    snapshot |= {"lockfile": build_lockfile(recipe, None), "step": step}
    return save_checkpoint(folder, Snapshot(**(snapshot | changes)))


def rewrite_checkpoint_file(checkpoint: Path, name: str, content: bytes) -> None:
    """Replaces a file in a checkpoint, and its entry in the manifest."""
    manifest = read_manifest(checkpoint)
    (checkpoint / name).write_bytes(content)
    manifest.files[name] = file_entry(content)
    (checkpoint / "checkpoint.json").write_bytes(encode_manifest(manifest))
