"""Reads a checkpoint: its recipe, its weights and its model."""

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

from ni_framework.checkpoint.golden_check import changes, prove, words
from ni_framework.checkpoint.lockfile import locked
from ni_framework.checkpoint.manifest import (
    AVERAGE,
    GOLDEN,
    LOCK,
    RECIPE,
    WEIGHTS,
    Manifest,
    check_file,
    read_checked,
    read_manifest,
    shards_of,
)
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.errors import CheckpointError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.registry import recipe_in

# Lines of recipes in checkpoints of format 2, as they are written now.
RENAMED = {"recompute: nothing": "recompute: none", "recompute: iterations": "recompute: iteration"}


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)  # where `load_model` is called


def load_checkpoint(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), tell: Callable[[str], object] = _warn
) -> tuple[Interpreter, Recipe]:
    """The model of a checkpoint, in evaluation mode, and its recipe; the weights are the averaged ones if it has them.

    Overrides may change what has no parameters, as `model.iterations=8`; `tell` is told what `proven` says. Raises
    `CheckpointError` if the weights do not fit, or if the model is not proven to be the one that was saved.
    """
    folder = find_checkpoint(path)
    manifest = read_manifest(folder)
    if note := proven(folder, manifest):
        tell(note)
    return restored(folder, manifest, overrides)


def load_model(checkpoint: str | os.PathLike[str]) -> Interpreter:
    """The trained model of a checkpoint or run folder, in evaluation mode on the CPU."""
    return load_checkpoint(checkpoint)[0]


def proven(folder: Path, manifest: Manifest) -> str | None:
    """What is to be told of a checkpoint whose components' sources have changed, without effect on its answers.

    Raises `CheckpointError` if they answer the golden batch otherwise, `PluginError` if one is not installed any more.
    """
    return prove(
        folder,
        read_lock(folder, manifest),
        lambda: restored(folder, manifest)[0],
        lambda model: read_golden(folder, manifest, model),
    )


def restored(folder: Path, manifest: Manifest, overrides: Sequence[str] = ()) -> tuple[Interpreter, Recipe]:
    """The model of a checkpoint, in evaluation mode, and its recipe, whatever has changed since it was saved."""
    recipe = read_recipe(folder, manifest, overrides)
    model = build_model(recipe)  # with initial values: a component may have buffers that no checkpoint holds
    load_weights(model, folder, manifest, inference_weights(manifest))
    return model.eval(), recipe


def read_recipe(folder: Path, manifest: Manifest, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a checkpoint, complete in itself.

    Raises `PluginError` with the command that installs it where a plugin that the checkpoint was saved with is absent.
    """
    text = read_checked(folder, manifest, RECIPE).decode("utf-8", errors="replace")
    for then, now in RENAMED.items():
        text = text.replace(f"\n  {then}\n", f"\n  {now}\n")
    known = locked(read_lock(folder, manifest)).values()
    origins = {(part.kind, part.name): (part.distribution, part.version) for part in known}
    return evolve(recipe_in(text, overrides, str(folder / RECIPE), origins), name=manifest.name)


def read_lock(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The lock of a checkpoint; raises `CheckpointError` for what is none."""
    try:
        lock = json.loads(read_checked(folder, manifest, LOCK))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / LOCK}: is no lock ({str(error)[:100]}); use another checkpoint") from error
    if not isinstance(lock, dict):
        raise CheckpointError(f"{folder / LOCK}: is no lock (it is no mapping); use another checkpoint")
    return lock


def begin_with(engine: Any, folder: Path) -> list[str]:
    """Gives an engine's model the weights to infer with of a checkpoint, and returns what is to be told.

    Nothing is proven: whoever takes weights into a recipe of their own wants another model, and its code may have changed on
    purpose, so that this is the way on where proof fails. That it has changed is told.
    """
    manifest, team = read_manifest(folder), engine.team
    name = inference_weights(manifest)
    with team.agreed():  # each looks at its share of the files for all
        for shard in shards_of(manifest.files, name)[team.rank :: team.size]:
            check_file(folder, manifest, shard)
    engine.load_weights(Stored(folder, manifest, name, checked=True), None, folder)
    changed = changes(read_lock(folder, manifest))
    return [f"begins with weights that other code has trained: {words(changed)}"] if changed else []


def inference_weights(manifest: Manifest) -> str:
    """The file with the weights to infer with: the averaged ones if there are any."""
    return AVERAGE if AVERAGE in manifest.whole_files else WEIGHTS


def load_weights(model: Interpreter, folder: Path, manifest: Manifest, name: str = WEIGHTS) -> None:
    """Fills a model with the weights in a checkpoint; raises `CheckpointError` as `check_fit` does."""
    fill(model, Stored(folder, manifest, name), folder)


def fill(model: Interpreter, stored: Stored, folder: Path) -> None:
    """Fills a model with stored weights; raises `CheckpointError` as `check_fit` does."""
    wanted = model.state_dict()
    check_fit(stored, wanted, folder)
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(stored.read(key))


def check_fit(stored: Stored, wanted: Mapping[str, Tensor], folder: Path) -> None:
    """Raises `CheckpointError` naming what a checkpoint's weights lack, have too many or in another shape."""
    faults = [f"lacks {key}" for key in wanted if key not in stored]
    faults += [f"has {key}, which the model has not" for key in stored if key not in wanted]
    faults += [
        f"has {key} of {_kind(stored.shape(key), stored.dtype(key))}, the model {_kind(wanted[key].shape, wanted[key].dtype)}"
        for key in wanted
        if key in stored and (stored.shape(key) != list(wanted[key].shape) or stored.dtype(key) != wanted[key].dtype)
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CheckpointError(
            f"{folder}: does not fit the model: it {faults[0]}{more}; use a recipe with the same model as the checkpoint's"
        )


def read_golden(folder: Path, manifest: Manifest, model: Interpreter) -> dict[str, Tensor]:
    """The golden batch of a checkpoint; raises `CheckpointError` if it is none for this model."""
    golden = read_tensors(folder, manifest, GOLDEN)
    if "inputs" not in golden or golden["inputs"].shape[1:] != model.input.shape:
        raise CheckpointError(f"{folder / GOLDEN}: holds no inputs for this model; use another checkpoint")
    return golden


def _kind(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"shape {list(shape)} ({str(dtype).removeprefix('torch.')})"


def read_tensors(folder: Path, manifest: Manifest, name: str) -> dict[str, Tensor]:
    """The tensors in a file of a checkpoint; raises `CheckpointError` if it cannot be read as safetensors."""
    try:
        return load_tensors(read_checked(folder, manifest, name))
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / name}: cannot be read as safetensors: {error}; use another checkpoint"
        ) from error
