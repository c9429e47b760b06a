"""Reads a checkpoint: its recipe, its lockfile, its weights and its model."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ni_framework.checkpoint.golden_check import check_source_changes, find_source_changes, format_changes
from ni_framework.checkpoint.lockfile import locked_components
from ni_framework.checkpoint.manifest import (
    EMA_WEIGHTS_FILE,
    GOLDEN_FILE,
    LOCKFILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    Manifest,
    check_file,
    read_checked,
    read_manifest,
    shard_files,
)
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.errors import CheckpointError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.registry import load_recipe_text


def _warn(text: str) -> None:
    # The warning names the line that calls `load_model`.
    warnings.warn(text, stacklevel=4)


def load_checkpoint(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), report: Callable[[str], object] = _warn
) -> tuple[Interpreter, Recipe]:
    """Loads the model of a checkpoint, with its EMA weights if it has them.

    Args:
        path: A checkpoint, or a run folder, which stands for its newest checkpoint.
        overrides: Changes of the recipe that need no other parameters, such as `model.iterations=8`.
        report: Receives a message if code has changed since the checkpoint was saved, without effect on the outputs.

    Returns:
        The model in evaluation mode, and its recipe.

    Raises:
        CheckpointError: The weights do not fit, or the model no longer gives the outputs that it gave when it was saved.
    """
    folder = find_checkpoint(path)
    manifest = read_manifest(folder)
    if message := check_golden(folder, manifest):
        report(message)
    return load_unchecked(folder, manifest, overrides)


def load_model(checkpoint: str | os.PathLike[str]) -> Interpreter:
    """Loads the trained model of a checkpoint. The weights are their EMA if the checkpoint has one.

    Args:
        checkpoint: A checkpoint or a run folder, whose newest checkpoint is used.

    Returns:
        The model, in evaluation mode on the CPU.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or its model no longer gives the outputs it gave when saved.
        PluginError: A component of the checkpoint is missing or fails.
    """
    return load_checkpoint(checkpoint)[0]


def check_golden(folder: Path, manifest: Manifest) -> str | None:
    """Checks the golden batch if components' source code has changed; returns a message if that left the outputs unchanged.

    Raises `CheckpointError` if the outputs differ, `PluginError` if a component is no longer installed.
    """
    return check_source_changes(
        folder,
        read_lockfile(folder, manifest),
        lambda: load_unchecked(folder, manifest)[0],
        lambda model: read_golden(folder, manifest, model),
    )


def load_unchecked(folder: Path, manifest: Manifest, overrides: Sequence[str] = ()) -> tuple[Interpreter, Recipe]:
    """Returns the model of a checkpoint, in evaluation mode, and its recipe, without checking what has changed since.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.
        overrides: Changes of its recipe.
    """
    recipe = read_recipe(folder, manifest, overrides)
    # Built with initial values, because a component may have buffers that are in no checkpoint.
    model = build_model(recipe)
    load_weights(model, folder, manifest, inference_weights_file(manifest))
    return model.eval(), recipe


def read_recipe(folder: Path, manifest: Manifest, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe of a checkpoint, which refers to no other file.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.
        overrides: Changes of the recipe.

    Raises:
        PluginError: A plugin that the checkpoint was saved with is not installed; names the command that installs it.
    """
    text = read_checked(folder, manifest, RECIPE_FILE).decode("utf-8", errors="replace")
    recorded = locked_components(read_lockfile(folder, manifest)).values()
    origins = {(component.kind, component.name): (component.distribution, component.version) for component in recorded}
    return evolve(load_recipe_text(text, overrides, str(folder / RECIPE_FILE), origins), name=manifest.name)


def read_lockfile(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Returns the lockfile of a checkpoint; raises `CheckpointError` if it is invalid."""
    try:
        lockfile = json.loads(read_checked(folder, manifest, LOCKFILE))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / LOCKFILE}: is not a valid lockfile ({str(error)[:100]}); use another checkpoint"
        ) from error
    if not isinstance(lockfile, dict):
        raise CheckpointError(
            f"{folder / LOCKFILE}: is not a valid lockfile (it is not a mapping); use another checkpoint"
        )
    return lockfile


def init_from_checkpoint(engine: Any, folder: Path) -> list[str]:
    """Loads the inference weights of a checkpoint into an engine's model; returns messages for the user.

    The golden batch is not checked: a new recipe usually means another model, and its code may have changed on purpose. This
    is also what a user can do when the golden batch check fails. A message reports that code has changed.
    """
    manifest, comm = read_manifest(folder), engine.comm
    name = inference_weights_file(manifest)
    # Each rank checks its share of the files, for all ranks.
    with comm.fail_together():
        for shard in shard_files(manifest.files, name)[comm.rank :: comm.world_size]:
            check_file(folder, manifest, shard)
    engine.load_weights(TensorReader(folder, manifest, name, verified=True), None, folder)
    source_changes = find_source_changes(read_lockfile(folder, manifest))
    return (
        [f"starts from weights that were trained with other code: {format_changes(source_changes)}"]
        if source_changes
        else []
    )


def inference_weights_file(manifest: Manifest) -> str:
    """Returns the file with the weights for inference: the EMA weights if there are any."""
    return EMA_WEIGHTS_FILE if EMA_WEIGHTS_FILE in manifest.logical_files else WEIGHTS_FILE


def load_weights(model: Interpreter, folder: Path, manifest: Manifest, name: str = WEIGHTS_FILE) -> None:
    """Loads the weights in one file of a checkpoint into a model.

    Args:
        model: The model, whose weights are overwritten.
        folder: The checkpoint.
        manifest: Its manifest.
        name: The file of weights, by its logical name.

    Raises:
        CheckpointError: As `check_fit` does.
    """
    load_into(model, TensorReader(folder, manifest, name), folder)


def load_into(model: Interpreter, reader: TensorReader, folder: Path) -> None:
    """Loads weights into a model.

    Args:
        model: The model, whose weights are overwritten.
        reader: The weights.
        folder: The checkpoint, for messages.

    Raises:
        CheckpointError: As `check_fit` does.
    """
    expected = model.state_dict()
    check_fit(reader, expected, folder)
    with torch.no_grad():
        for key, value in expected.items():
            value.copy_(reader.read(key))


def check_fit(reader: TensorReader, expected: Mapping[str, Tensor], folder: Path) -> None:
    """Raises `CheckpointError` naming weights that are missing, unexpected, or of another shape or type.

    Args:
        reader: The weights of the checkpoint.
        expected: The model's state dict.
        folder: The checkpoint, for messages.
    """
    faults = [f"lacks {key}" for key in expected if key not in reader]
    faults += [f"has {key}, which the model does not have" for key in reader if key not in expected]
    for key, value in expected.items():
        if key in reader and (reader.shape(key) != list(value.shape) or reader.dtype(key) != value.dtype):
            actual = _describe_tensor(reader.shape(key), reader.dtype(key))
            faults.append(f"has {key} of {actual}, the model {_describe_tensor(value.shape, value.dtype)}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CheckpointError(
            f"{folder}: does not fit the model: it {faults[0]}{more}; use a recipe with the same model as the checkpoint's"
        )


def read_golden(folder: Path, manifest: Manifest, model: Interpreter) -> dict[str, Tensor]:
    """Returns the golden batch of a checkpoint.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.
        model: The model that the batch is for.

    Raises:
        CheckpointError: The inputs do not fit the model.
    """
    golden = read_tensors(folder, manifest, GOLDEN_FILE)
    if "inputs" not in golden or golden["inputs"].shape[1:] != model.input.shape:
        raise CheckpointError(f"{folder / GOLDEN_FILE}: contains no inputs for this model; use another checkpoint")
    return golden


def _describe_tensor(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"shape {list(shape)} ({str(dtype).removeprefix('torch.')})"


def read_tensors(folder: Path, manifest: Manifest, name: str) -> dict[str, Tensor]:
    """Returns the tensors in a file of a checkpoint.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.
        name: The file.

    Raises:
        CheckpointError: The file cannot be read as safetensors.
    """
    try:
        return load_tensors(read_checked(folder, manifest, name))
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / name}: cannot be read as safetensors: {error}; use another checkpoint"
        ) from error
