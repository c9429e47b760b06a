"""Training, from a recipe to a run folder with a trained model. Read this first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from attrs import evolve

from ni_framework.checkpoint.load import begin_with
from ni_framework.checkpoint.lockfile import facts
from ni_framework.checkpoint.resume import check_in_place, find_resumption, followed, recipe_of, run_of
from ni_framework.checkpoint.run_dir import check_new, check_visible, find_checkpoint, locked, new_run
from ni_framework.contracts import Split
from ni_framework.distributed.communicator import Team
from ni_framework.distributed.rank_logs import forget_notes, logged
from ni_framework.distributed.rendezvous import join
from ni_framework.engines.base import Engine
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import UsageError
from ni_framework.model.compose import build_data, build_model
from ni_framework.recipe import Recipe
from ni_framework.registry.attribution import blamed
from ni_framework.training.loop import Training
from ni_framework.training.routing_probe import probe


@blamed()
def train(
    recipe: Recipe,
    run: Path | None = None,
    *,
    every: int | None = None,
    keep: int | None = None,
    start: str | None = None,
    listeners: Sequence[object] = (),
) -> dict[str, Any]:
    """Trains a recipe's model in the folder `run`, and returns the summary that `ni train --json` prints.

    Without `run` it makes one, `runs/<recipe>/<time>`. `every` is the number of steps between checkpoints (one is always
    written at the end), `keep` how many of them stay (None: all), `start` a checkpoint whose weights the model begins with,
    `listeners` hear the run's events. Where a launcher has started several processes, each of them calls this, and the first
    one speaks. Raises `RunError` where the run fails, `Interrupted` where a signal ends it.
    """
    team = join(recipe.engine)
    run = Path(team.lead(lambda: str(run or new_run(recipe.name))))
    with _held(run, team, recipe.engine.use) as log:
        team.lead(lambda: check_new(run))
        splits = _data(recipe, team)
        with closing(_engine(recipe, team, log)) as engine:
            # One looks for all: a run that goes on, or `runs/latest`, is soon another checkpoint.
            found = None if start is None else team.lead(lambda: str(find_checkpoint(start)))
            notes = [] if found is None else begin_with(engine, Path(found))
            training = Training(engine, recipe, splits, run, every, keep, listeners)
            training.notes += notes
            training.begin()
            probe(engine, training.order, training.tell)
            return training.finish()


@blamed()
def resume(
    path: str | Path,
    overrides: Sequence[str] = (),
    run: Path | None = None,
    *,
    every: int | None = None,
    keep: int | None = None,
    listeners: Sequence[object] = (),
) -> dict[str, Any]:
    """Goes on from a run's newest good checkpoint, or from the one named, in its run folder or in a new one.

    What follows is what would have followed: on the CPU, and in as many processes of the same engine, to the last bit in weights,
    optimizer, metrics; otherwise up to rounding. `every` and `keep` stay as they were unless given. Raises `CheckpointError` if
    there is nothing to go on from.
    """
    path = followed(Path(path))
    own = run_of(path)
    place = run or own
    if place is None:
        raise UsageError(f"{find_checkpoint(path)}: lies in no run folder; name a new one with --output")
    in_place = own is not None and place.resolve() == own.resolve()
    engine = recipe_of(path, overrides).engine
    team = join(engine)
    with _held(place, team, engine.use) as log:
        resumption = find_resumption(path, overrides, team)
        team.lead(lambda: check_in_place(resumption, place) if in_place else check_new(place))
        recipe = evolve(
            resumption.recipe, engine=engine
        )  # by which the processes have joined, whatever an older one says
        splits = _data(recipe, team)
        every, keep = every or resumption.manifest.every, keep or resumption.manifest.keep
        with closing(_engine(recipe, team, log)) as engine:
            training = Training(engine, recipe, splits, place, every, keep, listeners)
            training.restore(resumption)
            training.begin()
            return training.finish()


@contextmanager
def _held(run: Path, team: Team, engine: str) -> Iterator[TextIO | None]:
    """A run folder that belongs to this team alone, and where each process's log goes."""
    with team.leading(lambda: locked(run)):
        with team.agreed():
            if team.leads:
                forget_notes(run)
            check_visible(run)
        with logged(run, team, engine) as log:
            yield log


def _data(recipe: Recipe, team: Team) -> Mapping[str, Split]:
    """The data, once all processes are known to have the same, and all else alike."""
    with team.agreed():
        splits = build_data(recipe).open()
        table = {name: str(list(value.shape)) for name, value in build_model(recipe, "meta").named_parameters()}
    if team.size > 1:
        team.compare(facts(recipe, splits, table))
    return splits


def _engine(recipe: Recipe, team: Team, log: TextIO | None) -> Engine:
    if recipe.engine.use == "zero":
        from ni_framework.engines.deepspeed.engine import ZeroEngine

        return ZeroEngine(recipe, team, log=log)
    return LocalEngine(build_model(recipe, "cuda" if torch.cuda.is_available() else "cpu"), recipe)
