"""Saves a checkpoint: a folder with weights and training state (safetensors), recipe, lockfile, golden batch and manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen
from torch import Tensor

from ni_framework import recipe as recipes
from ni_framework.checkpoint.manifest import (
    EMA_WEIGHTS_FILE,
    GOLDEN_FILE,
    LOCKFILE,
    MANIFEST_FILE,
    RECIPE_FILE,
    TRAINING_STATE_FILE,
    WEIGHTS_FILE,
    Manifest,
    encode_manifest,
    shard_name,
)
from ni_framework.checkpoint.reader import to_safetensors
from ni_framework.checkpoint.shards import ShardedState, local_tensor
from ni_framework.checkpoint.writer import safetensors_chunks
from ni_framework.distributed.communicator import SINGLE_PROCESS, Communicator
from ni_framework.errors import RunError
from ni_framework.recipe import Recipe
from ni_framework.utils.atomic_files import atomic_directory, write_new


@frozen(kw_only=True)
class Snapshot:
    """The contents of a checkpoint: all that the next step, and a user of the model, may need.

    Each rank passes its own shards of `weights`, `ema_weights` and `training_state`, which is what the next step needs in
    addition to the weights. The other attributes are those of `Manifest`.
    """

    weights: ShardedState
    ema_weights: ShardedState | None = None
    training_state: ShardedState = field(factory=dict)
    golden: Mapping[str, Tensor]
    recipe: Recipe
    lockfile: Mapping[str, Any]
    step: int
    seconds: float = 0.0
    evaluated: bool = False
    checkpoint_every: int | None = None
    keep_last: int | None = None
    metrics: Mapping[str, float] = {}


def save_checkpoint(destination: Path, snapshot: Snapshot, comm: Communicator = SINGLE_PROCESS) -> Path:
    """Writes a checkpoint to a staging folder and renames it, so that a folder with the final name is always complete.

    Each rank writes its own shards; the folder gets its name once the shards of all ranks are on the disk.

    Args:
        destination: The folder of the checkpoint.
        snapshot: Its contents; each rank passes its own shards.
        comm: The ranks that save together.

    Returns:
        The folder of the checkpoint.

    Raises:
        RunError: A weight is not finite: such a checkpoint would only replace a good one.
    """
    states = {WEIGHTS_FILE: snapshot.weights, TRAINING_STATE_FILE: snapshot.training_state}
    if snapshot.ema_weights is not None:
        states[EMA_WEIGHTS_FILE] = snapshot.ema_weights
    with comm.fail_together():
        _check_finite(states, snapshot.step)
    with comm.rank_zero_context(lambda: atomic_directory(destination)) as staging:
        folder = Path(comm.broadcast_from_rank_zero(lambda: str(staging)))
        parts = comm.gather_results(lambda: _write_local_shards(folder, states, comm))
        with comm.fail_together():
            if comm.is_rank_zero:
                _write_shared_files(folder, snapshot, parts)
    return destination


def _check_finite(states: Mapping[str, ShardedState], step: int) -> None:
    for name, value in (entry for state in states.values() for entry in state.items()):
        tensor = local_tensor(value)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RunError(
                f"step {step}: {name} is not finite, so nothing was saved; resume from an earlier checkpoint"
            )


def _write_local_shards(folder: Path, states: Mapping[str, ShardedState], comm: Communicator) -> dict[str, Any]:
    """Writes this rank's shards, and returns their entries of the manifest."""
    files: dict[str, Any] = {}
    shard_shapes: dict[str, Any] = {}
    for name, state in states.items():
        tensors, shapes = to_safetensors(state)
        shard = shard_name(name, comm.rank, comm.world_size)
        files[shard] = _write_with_entry(folder / shard, safetensors_chunks(tensors))
        if shapes:
            shard_shapes[name] = shapes
    return {"files": files, "shard_shapes": shard_shapes}


def _write_shared_files(folder: Path, snapshot: Snapshot, parts: Sequence[Mapping[str, Any]]) -> None:
    """Writes the files that are written once, the manifest last; `parts` are the entries of each rank's shards."""
    entries = {name: entry for part in parts for name, entry in part["files"].items()}
    shard_shapes: dict[str, Any] = {}
    for part in parts:
        for name, shapes in part["shard_shapes"].items():
            shard_shapes.setdefault(name, {}).update(shapes)
    entries[GOLDEN_FILE] = _write_with_entry(folder / GOLDEN_FILE, safetensors_chunks(snapshot.golden))
    entries[RECIPE_FILE] = _write_with_entry(folder / RECIPE_FILE, [recipes.dump(snapshot.recipe).encode()])
    lockfile = json.dumps(snapshot.lockfile, indent=2) + "\n"
    entries[LOCKFILE] = _write_with_entry(folder / LOCKFILE, [lockfile.encode()])
    manifest = Manifest(
        step=snapshot.step,
        seconds=snapshot.seconds,
        name=snapshot.recipe.name,
        evaluated=snapshot.evaluated,
        every=snapshot.checkpoint_every,
        keep=snapshot.keep_last,
        metrics=dict(snapshot.metrics),
        files=entries,
        shard_shapes=shard_shapes,
    )
    write_new(folder / MANIFEST_FILE, [encode_manifest(manifest)])


def _write_with_entry(path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> dict[str, Any]:
    size, sha256 = write_new(path, chunks)
    return {"size": size, "sha256": sha256}
