"""A checkpoint: a folder with the weights (safetensors), the complete recipe, and a manifest with checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ni_framework import recipe as recipes
from ni_framework.errors import CheckpointError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.registry import load_recipe

FORMAT = 1
WEIGHTS, TRAINING, RECIPE, MANIFEST = "model.safetensors", "training.safetensors", "recipe.yaml", "checkpoint.json"


def save_checkpoint(
    folder: Path,
    model: Interpreter,
    recipe: Recipe,
    step: int,
    metrics: Mapping[str, float],
    training: Mapping[str, Tensor] | None = None,
    seconds: float = 0.0,
) -> Path:
    """Writes a checkpoint beside its place and renames it in one step: a folder with the final name is complete.

    `training` is what the next step needs beside the weights, by name; `seconds` how long training took so far.
    """
    files = {
        WEIGHTS: _tensor_bytes(model.state_dict()),
        TRAINING: _tensor_bytes(training or {}),
        RECIPE: recipes.dump(recipe).encode(),
    }
    manifest = {
        "format": FORMAT,
        "step": step,
        "seconds": seconds,
        "name": recipe.name,
        "metrics": dict(metrics),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    for name, content in files.items():
        with open(beside / name, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
    before = folder.with_name(f".{folder.name}.before.{os.getpid()}")
    if folder.exists():  # the last steps of an interrupted run, saved again
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)
    return folder


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, whole or not."""
    found = [entry.parent for entry in run.glob(f"checkpoints/step-*/{MANIFEST}")]
    return sorted((folder for folder in found if step_of(folder) is not None), key=lambda folder: step_of(folder) or 0)


def step_of(folder: Path) -> int | None:
    """The step in a checkpoint's name; None for another folder."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isascii() and number.isdecimal() else None


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path means: the folder itself, or the newest in a run folder.

    Raises `CheckpointError` if there is none.
    """
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"{folder}: there is no such checkpoint; name a checkpoint folder or a run folder")
    if (folder / MANIFEST).is_file():
        return folder
    found = checkpoints_of(folder)
    if not found:
        raise CheckpointError(
            f"{folder}: holds no checkpoint; name a folder with a {MANIFEST}, or a run that has saved one"
        )
    return found[-1]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after every file has been compared with its checksum.

    Raises `CheckpointError` for a foreign, damaged or newer one.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files, known = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: is no manifest of ni_framework ({error}); name another checkpoint"
        ) from error
    if known != FORMAT:
        raise CheckpointError(
            f"{folder}: has checkpoint format {known}, this ni_framework reads {FORMAT}; upgrade ni_framework"
        )
    for name in (WEIGHTS, TRAINING, RECIPE):
        try:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(
                f"{folder / name}: cannot be read: {error.strerror}; use another checkpoint"
            ) from error
        if digest != files.get(name):
            raise CheckpointError(f"{folder / name}: is damaged (its checksum differs); use another checkpoint")
    return manifest


def load_checkpoint(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> tuple[Interpreter, Recipe]:
    """The model of a checkpoint with its weights, in evaluation mode, and its recipe.

    Overrides may change what has no parameters, as `model.iterations=8`. Raises `CheckpointError` if the weights do not fit.
    """
    folder = find_checkpoint(path)
    manifest = read_manifest(folder)
    recipe = attrs.evolve(load_recipe(folder / RECIPE, overrides), name=str(manifest.get("name", "recipe")))
    model = build_model(recipe)  # with initial values: a component may have buffers that no checkpoint holds
    load_weights(model, folder)
    return model.eval(), recipe


def load_model(checkpoint: str | os.PathLike[str]) -> Interpreter:
    """The trained model of a checkpoint or run folder, in evaluation mode on the CPU."""
    return load_checkpoint(checkpoint)[0]


def load_weights(model: Interpreter, folder: Path) -> None:
    """Fills a model with a checkpoint's weights.

    Raises `CheckpointError` naming what is missing, left over or of another shape.
    """
    stored = read_tensors(folder, WEIGHTS)
    wanted = model.state_dict()
    faults = [f"lacks {name}" for name in wanted if name not in stored]
    faults += [f"has {name}, which the model has not" for name in stored if name not in wanted]
    faults += [
        f"has {name} of shape {list(stored[name].shape)}, the model {list(wanted[name].shape)}"
        for name in wanted
        if name in stored and stored[name].shape != wanted[name].shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CheckpointError(
            f"{folder}: does not fit the model: it {faults[0]}{more}; use a recipe with the same model as the checkpoint's"
        )
    with torch.no_grad():
        model.load_state_dict(stored)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors in a file of a checkpoint; raises `CheckpointError` if it cannot be read as safetensors."""
    try:
        return load_tensors((folder / name).read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder / name}: cannot be read as safetensors: {error}; use another checkpoint"
        ) from error
