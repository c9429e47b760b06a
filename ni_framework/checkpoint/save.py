"""A checkpoint: a folder with weights and training state (safetensors), recipe, lock, golden batch and manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen
from safetensors.torch import save as save_tensors
from torch import Tensor

from ni_framework import recipe as recipes
from ni_framework.checkpoint.manifest import (
    AVERAGE,
    GOLDEN,
    LOCK,
    MANIFEST,
    RECIPE,
    TRAINING,
    WEIGHTS,
    Manifest,
    file_entry,
    manifest_bytes,
    shard_name,
)
from ni_framework.checkpoint.reader import keyed
from ni_framework.checkpoint.shards import State, held
from ni_framework.distributed.communicator import ALONE, Team
from ni_framework.errors import RunError
from ni_framework.recipe import Recipe
from ni_framework.utils.atomic_files import published, write_file


@frozen(kw_only=True)
class Snapshot:
    """What a checkpoint holds: all that the next step, and a user of the model, may need; of several processes, each its own."""

    weights: State
    average: State | None = None  # the averaged weights
    training: State = field(factory=dict)  # what the next step needs beside the weights
    golden: Mapping[str, Tensor]
    recipe: Recipe
    lock: Mapping[str, Any]
    step: int
    seconds: float = 0.0
    evaluated: bool = False
    every: int | None = None
    keep: int | None = None
    metrics: Mapping[str, float] = {}


def save_checkpoint(place: Path, snapshot: Snapshot, team: Team = ALONE) -> Path:
    """Writes a checkpoint beside its place and renames it in one step: a folder with the final name is complete.

    Each process writes what it holds; the folder takes its place once the parts of all are on the disk. Raises `RunError` for
    weights that are not finite: such a checkpoint would only push out a good one.
    """
    states = {WEIGHTS: snapshot.weights, TRAINING: snapshot.training}
    if snapshot.average is not None:
        states[AVERAGE] = snapshot.average
    with team.agreed():
        _check_finite(states, snapshot.step)
    with team.leading(lambda: published(place)) as beside:
        folder = Path(team.lead(lambda: str(beside)))
        parts = team.each(lambda: _write_states(folder, states, team))
        with team.agreed():
            if team.leads:
                _write_rest(folder, snapshot, parts)
    return place


def _check_finite(states: Mapping[str, State], step: int) -> None:
    for name, value in (entry for state in states.values() for entry in state.items()):
        tensor = held(value)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RunError(f"step {step}: {name} is not finite, so nothing was saved; go on from an earlier checkpoint")


def _write_states(folder: Path, states: Mapping[str, State], team: Team) -> dict[str, Any]:
    """Writes what this process holds, and returns what the manifest says of it."""
    files: dict[str, Any] = {}
    pieces: dict[str, Any] = {}
    for name, state in states.items():
        tensors, shapes = keyed(state)
        shard = shard_name(name, team.rank, team.size)
        files[shard] = _write(folder / shard, _tensor_bytes(tensors))
        if shapes:
            pieces[name] = shapes
    return {"files": files, "pieces": pieces}


def _write_rest(folder: Path, snapshot: Snapshot, parts: Sequence[Mapping[str, Any]]) -> None:
    """Writes what is written once, the manifest of all of it last."""
    entries = {name: entry for part in parts for name, entry in part["files"].items()}
    pieces: dict[str, Any] = {}
    for part in parts:
        for name, shapes in part["pieces"].items():
            pieces.setdefault(name, {}).update(shapes)
    entries[GOLDEN] = _write(folder / GOLDEN, _tensor_bytes(snapshot.golden))
    entries[RECIPE] = _write(folder / RECIPE, recipes.dump(snapshot.recipe).encode())
    entries[LOCK] = _write(folder / LOCK, (json.dumps(snapshot.lock, indent=2) + "\n").encode())
    manifest = Manifest(
        step=snapshot.step,
        seconds=snapshot.seconds,
        name=snapshot.recipe.name,
        evaluated=snapshot.evaluated,
        every=snapshot.every,
        keep=snapshot.keep,
        metrics=dict(snapshot.metrics),
        files=entries,
        pieces=pieces,
    )
    write_file(folder / MANIFEST, manifest_bytes(manifest))


def _write(path: Path, content: bytes) -> dict[str, Any]:
    write_file(path, content)
    return file_entry(content)


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
