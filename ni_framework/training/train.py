"""Trains a recipe, or resumes a run: from a recipe to a run folder with a trained model. Read this first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

import torch
from attrs import evolve

from ni_framework.checkpoint.load import init_from_checkpoint
from ni_framework.checkpoint.lockfile import collect_environment
from ni_framework.checkpoint.resume import (
    check_resume_in_place,
    find_resume_point,
    find_run_dir,
    read_resume_recipe,
    resolve_symlink,
)
from ni_framework.checkpoint.run_dir import check_new, find_checkpoint, new_run_dir, require_shared_filesystem, run_lock
from ni_framework.contracts import Split
from ni_framework.distributed.communicator import Communicator
from ni_framework.distributed.rank_logs import rank_log, remove_error_files
from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.base import Engine
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import UsageError
from ni_framework.model.compose import build_data, build_model
from ni_framework.recipe import Recipe
from ni_framework.registry.attribution import attribute_errors
from ni_framework.training.loop import TrainLoop
from ni_framework.training.progress import CheckpointPolicy
from ni_framework.training.routing_probe import probe_routing


@attribute_errors()
def train(
    recipe: Recipe,
    run_dir: str | PathLike[str] | None = None,
    *,
    checkpoint_every: int | None = None,
    keep_last: int | None = None,
    init_from: str | PathLike[str] | None = None,
    listeners: Sequence[object] = (),
) -> dict[str, Any]:
    """Trains a recipe's model in a new run folder.

    If a launcher has started several processes, each of them calls this function with the same arguments.

    Args:
        recipe: What to train, as `load_recipe` returns it.
        run_dir: The run folder; it must not hold a run yet. None for a new folder `runs/<recipe>/<time>`.
        checkpoint_every: Steps between two checkpoints; None for one at the end only, which is always written.
        keep_last: How many of the newest checkpoints are kept; None for all.
        init_from: A run or checkpoint whose weights the model starts with; None for initial values drawn from the seed.
        listeners: Objects with hooks of `contracts.RunEvents`, marked with `contracts.hookimpl`, in addition to the
            installed ones. Only rank 0 calls them.

    Returns:
        The summary that `ni train --json` prints: "run" and "checkpoint", the paths of the run folder and of its last
        checkpoint; "parameters", their number; "seconds" spent in steps; and "metrics", the last ones by name
        ("train/loss", "test/accuracy"). Every rank returns it.

    Raises:
        UsageError: `run_dir` holds a run already.
        RecipeError: The recipe cannot be trained on this machine or with this number of processes.
        PluginError: A component or a listener of a plugin fails.
        CheckpointError: `init_from` is missing, damaged, or does not fit the model.
        FitError: The training does not fit into memory.
        RunError: The run fails for another reason, for example because too many steps in a row were skipped.
        RunInterrupted: A signal has stopped the run; it can be resumed.
    """
    comm = init_process_group(recipe.engine)
    # Only rank 0 chooses paths: a name with the time, or `runs/latest`, could differ between ranks.
    run_dir = Path(comm.broadcast_from_rank_zero(lambda: str(run_dir or new_run_dir(recipe.name))))
    with _open_run(run_dir, comm, recipe.engine.use) as log:
        comm.broadcast_from_rank_zero(lambda: check_new(run_dir))
        splits = _open_data(recipe, comm)
        with closing(_build_engine(recipe, comm, log)) as engine:
            init_warnings = []
            if init_from is not None:
                init_checkpoint = comm.broadcast_from_rank_zero(lambda: str(find_checkpoint(init_from)))
                init_warnings = init_from_checkpoint(engine, Path(init_checkpoint))
            policy = CheckpointPolicy(checkpoint_every, keep_last)
            loop = TrainLoop(engine, recipe, splits, run_dir, policy, listeners)
            loop.pending_warnings += init_warnings
            loop.start()
            probe_routing(engine, loop.sampler, loop.hooks)
            return loop.run_to_end()


@attribute_errors()
def resume(
    path: str | PathLike[str],
    overrides: Sequence[str] = (),
    run_dir: str | PathLike[str] | None = None,
    *,
    checkpoint_every: int | None = None,
    keep_last: int | None = None,
    listeners: Sequence[object] = (),
) -> dict[str, Any]:
    """Resumes a run from its newest valid checkpoint, or from a given checkpoint.

    Training continues as if it had not been interrupted: weights, optimizer state and metrics are bit-identical on the CPU
    with the same engine and the same number of processes, and equal up to rounding otherwise.

    Args:
        path: A run folder, or one of its checkpoints.
        overrides: Changes to the recipe, as `load_recipe` takes them; only keys that a resumed run may change.
        run_dir: Another, new run folder to continue in; None for the run's own.
        checkpoint_every: Steps between two checkpoints; None for the run's own setting.
        keep_last: How many of the newest checkpoints are kept; None for the run's own setting.
        listeners: As for `train`.

    Returns:
        The summary, as for `train`.

    Raises:
        CheckpointError: There is no valid checkpoint to resume from, or it was trained on different data.
        UsageError: The run has no steps left, an override changes what a resumed run must not change, or the run cannot be
            continued in its own folder because it has later checkpoints, or because the checkpoint is in no run folder.
        RecipeError: The recipe cannot be trained on this machine or with this number of processes.
        PluginError: A component or a listener of a plugin fails.
        FitError: The training does not fit into memory.
        RunError: The run fails for another reason.
        RunInterrupted: A signal has stopped the run; it can be resumed.
    """
    path = resolve_symlink(Path(path))
    own_run_dir = find_run_dir(path)
    target_dir = own_run_dir if run_dir is None else Path(run_dir)
    if target_dir is None:
        raise UsageError(f"{find_checkpoint(path)}: is in no run folder; name a new one with --output")
    in_place = own_run_dir is not None and target_dir.resolve() == own_run_dir.resolve()
    engine_config = read_resume_recipe(path, overrides).engine
    comm = init_process_group(engine_config)
    with _open_run(target_dir, comm, engine_config.use) as log:
        resume_point = find_resume_point(path, overrides, comm)
        comm.broadcast_from_rank_zero(
            lambda: check_resume_in_place(resume_point, target_dir) if in_place else check_new(target_dir)
        )
        # The ranks have joined with this configuration, even if an older checkpoint was found that has another one.
        recipe = evolve(resume_point.recipe, engine=engine_config)
        splits = _open_data(recipe, comm)
        manifest = resume_point.manifest
        policy = CheckpointPolicy(checkpoint_every or manifest.every, keep_last or manifest.keep)
        with closing(_build_engine(recipe, comm, log)) as engine:
            loop = TrainLoop(engine, recipe, splits, target_dir, policy, listeners)
            loop.restore(resume_point)
            loop.start()
            return loop.run_to_end()


@contextmanager
def _open_run(run_dir: Path, comm: Communicator, engine_name: str) -> Iterator[TextIO | None]:
    """Locks a run folder for these ranks, and yields the file for each rank's log (None: stderr)."""
    with comm.rank_zero_context(lambda: run_lock(run_dir)):
        with comm.fail_together():
            if comm.is_rank_zero:
                remove_error_files(run_dir)
            require_shared_filesystem(run_dir)
        with rank_log(run_dir, comm, engine_name) as log:
            yield log


def _open_data(recipe: Recipe, comm: Communicator) -> Mapping[str, Split]:
    """Opens the data, and checks that all ranks have the same data, model and software."""
    with comm.fail_together():
        splits = build_data(recipe).open()
        parameter_shapes = {
            name: str(list(value.shape)) for name, value in build_model(recipe, "meta").named_parameters()
        }
    if comm.world_size > 1:
        comm.require_identical(collect_environment(recipe, splits, parameter_shapes))
    return splits


def _build_engine(recipe: Recipe, comm: Communicator, log: TextIO | None) -> Engine:
    """Builds the model and the engine that the recipe names; deepspeed is imported only if it is needed."""
    if recipe.engine.use == "zero":
        from ni_framework.engines.deepspeed.engine import ZeroEngine

        return ZeroEngine(recipe, comm, log=log)
    return LocalEngine(build_model(recipe, "cuda" if torch.cuda.is_available() else "cpu"), recipe)
