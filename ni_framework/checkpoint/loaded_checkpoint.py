"""A checkpoint read as a whole, to be made into another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from torch import Tensor

from ni_framework.checkpoint.load import read_lock, read_recipe
from ni_framework.checkpoint.manifest import AVERAGE, TRAINING, WEIGHTS, Manifest, check_files
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.model.compose import build_model, meta_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe


@frozen
class Whole:
    """All that a checkpoint holds, whoever wrote it in however many pieces."""

    folder: Path
    manifest: Manifest
    recipe: Recipe
    lock: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    averages: Mapping[str, Tensor] | None
    training: Mapping[str, Tensor]
    tasks: Mapping[str, int]  # of its model

    @classmethod
    def of(cls, path: str | Path) -> Whole:
        """Reads a checkpoint or the newest in a run folder; raises `CheckpointError` for what is damaged or none."""
        folder = find_checkpoint(path)
        manifest = check_files(folder)
        recipe = read_recipe(folder, manifest)

        def read(name: str) -> dict[str, Tensor]:
            return Stored(folder, manifest, name, checked=True).all()

        averages = read(AVERAGE) if AVERAGE in manifest.whole_files else None
        lock, tasks = read_lock(folder, manifest), meta_model(recipe).tasks
        return cls(folder, manifest, recipe, lock, read(WEIGHTS), averages, read(TRAINING), tasks)

    @property
    def inferring(self) -> Mapping[str, Tensor]:
        """The weights to infer with: the averaged ones if there are any."""
        return self.weights if self.averages is None else self.averages

    def model(self) -> Interpreter:
        """The model, in evaluation mode."""
        model = build_model(self.recipe)
        model.load_state_dict(dict(self.inferring))
        return model.eval()
