"""Proof that a checkpoint's model still behaves as it did: by its sources, and where these have changed by its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from torch import Tensor

from ni_framework._version import __version__
from ni_framework.checkpoint.golden import golden_difference
from ni_framework.checkpoint.lockfile import Locked, locked, source_digest
from ni_framework.contracts import PROJECT
from ni_framework.errors import CheckpointError, PluginError, RecipeError
from ni_framework.model.interpreter import Interpreter
from ni_framework.registry import Entry, installed
from ni_framework.registry.discover import OWN
from ni_framework.registry.requirements import regained


@frozen
class Change:
    """A component of which the source is another than when the checkpoint was saved."""

    path: str
    then: Locked
    now: Entry

    @property
    def is_of_one_version(self) -> bool:
        """Whether it has changed in place, as code does that is being worked on."""
        return self.then.origin == self.now.source

    def __str__(self) -> str:
        other = "and is still, with other source" if self.is_of_one_version else f"and is of {self.now.source} now"
        return f"{self.path}: {self.then.label} was of {self.then.origin}, {other}"


def changes(lock: Mapping[str, Any]) -> list[Change]:
    """What has changed since a lock was written; components that are not to be had here are left out."""
    found = []
    version = lock.get("framework")
    if (
        isinstance(version, str) and version != __version__
    ):  # its own parts are told by their files alone, and use others
        then = Locked("framework", PROJECT, OWN, version, None)
        found.append(Change("framework", then, Entry("framework", PROJECT, OWN, __version__, "")))
    for path, then in locked(lock).items():
        try:
            now = installed().find(then.kind, then.name)
            source = source_digest(now)
        except (RecipeError, PluginError):
            continue
        if source != then.sha256:
            found.append(Change(path, then, now))
    return found


def prove(
    folder: Path,
    lock: Mapping[str, Any],
    remake: Callable[[], Interpreter],
    golden: Callable[[Interpreter], Mapping[str, Tensor]],
) -> str | None:
    """What is to be told of a model whose components' sources have changed and that still answers the golden batch as it did.

    None where no source has changed: then nothing is made or computed. Raises `CheckpointError` if the answers differ, or if
    the components no longer take the checkpoint's options or weights.
    """
    changed = changes(lock)
    if not changed:
        return None
    try:
        model = remake()
        differences = golden_difference(model, golden(model))
    except RecipeError as error:
        differences = [f"its recipe does not fit any more: {problem.message}" for problem in error.problems]
    except CheckpointError as error:
        differences = [str(error)]
    if differences:
        raise CheckpointError(
            "\n  ".join([_HEAD.format(folder), *map(str, changed), *differences, _help(folder, changed)])
        )
    return f"{folder}: its model answers as it did, though code has changed since it was saved: {words(changed)}"


def words(changed: Sequence[Change]) -> str:
    """What has changed, on one line."""
    by_version: dict[str, list[str]] = {}
    for change in changed:
        now = "the same version" if change.is_of_one_version else change.now.source
        by_version.setdefault(f"of {change.then.origin}, now {now}", []).append(change.then.label)
    return "; ".join(f"{', '.join(dict.fromkeys(labels))} {versions}" for versions, labels in by_version.items())


_HEAD = "{}: its model is not the one that was saved: code has changed since then"


def _help(folder: Path, changed: Sequence[Change]) -> str:
    ways = (regained(of.then.distribution, of.then.version, of.is_of_one_version) for of in changed)
    return (
        f"help: use what it was saved with: {', '.join(dict.fromkeys(ways))}; "
        f"or take its weights into a new run with the code of now: ni train RECIPE --from {folder}"
    )
