"""A whole checkpoint in memory, from which another one can be made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from torch import Tensor

from ni_framework.checkpoint.load import read_lockfile, read_recipe
from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE, Manifest, check_files
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.model.compose import build_meta_model, build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe


@frozen
class LoadedCheckpoint:
    """All contents of a checkpoint, independent of how many ranks wrote it."""

    folder: Path
    manifest: Manifest
    recipe: Recipe
    lockfile: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    ema_weights: Mapping[str, Tensor] | None
    training_state: Mapping[str, Tensor]
    # The number of classes of each task of its model.
    tasks: Mapping[str, int]

    @classmethod
    def load(cls, path: str | Path) -> LoadedCheckpoint:
        """Reads a checkpoint, or the newest in a run folder; raises `CheckpointError` if it is missing or damaged."""
        folder = find_checkpoint(path)
        manifest = check_files(folder)
        recipe = read_recipe(folder, manifest)

        def read(name: str) -> dict[str, Tensor]:
            return TensorReader(folder, manifest, name, verified=True).read_all()

        ema_weights = read(EMA_WEIGHTS_FILE) if EMA_WEIGHTS_FILE in manifest.logical_files else None
        lockfile, tasks = read_lockfile(folder, manifest), build_meta_model(recipe).tasks
        return cls(
            folder, manifest, recipe, lockfile, read(WEIGHTS_FILE), ema_weights, read(TRAINING_STATE_FILE), tasks
        )

    @property
    def inference_weights(self) -> Mapping[str, Tensor]:
        """The weights for inference: the EMA weights if there are any."""
        return self.weights if self.ema_weights is None else self.ema_weights

    def build_inference_model(self) -> Interpreter:
        """Returns the model with its inference weights, in evaluation mode."""
        model = build_model(self.recipe)
        model.load_state_dict(dict(self.inference_weights))
        return model.eval()
