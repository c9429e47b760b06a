"""Checks that a checkpoint's model still behaves as it did: by its source code, and where that has changed by its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from torch import Tensor

from ni_framework._version import __version__
from ni_framework.checkpoint.golden import compare_golden
from ni_framework.checkpoint.lockfile import LockedComponent, locked_components, source_sha256
from ni_framework.contracts import PROJECT_NAME
from ni_framework.errors import CheckpointError, PluginError, RecipeError
from ni_framework.model.interpreter import Interpreter
from ni_framework.registry import Entry, installed_catalog
from ni_framework.registry.discover import FRAMEWORK_DISTRIBUTION
from ni_framework.registry.requirements import reinstall_command


@frozen
class SourceChange:
    """A component whose source code has changed since the checkpoint was saved."""

    path: str
    recorded: LockedComponent
    current: Entry

    @property
    def is_same_version(self) -> bool:
        """Whether the source changed without a new version, as it does during development."""
        return self.recorded.origin == self.current.source

    def __str__(self) -> str:
        now = "whose source code has changed" if self.is_same_version else f"and comes from {self.current.source} now"
        return f"{self.path}: {self.recorded.label} came from {self.recorded.origin}, {now}"


def find_source_changes(lockfile: Mapping[str, Any]) -> list[SourceChange]:
    """Returns what has changed since a lockfile was written; components that are not installed here are skipped."""
    source_changes = []
    version = lockfile.get("framework")
    # A built-in component is identified by the file of its class alone, but that file uses others of the framework.
    if isinstance(version, str) and version != __version__:
        recorded = LockedComponent("framework", PROJECT_NAME, FRAMEWORK_DISTRIBUTION, version, None)
        current = Entry("framework", PROJECT_NAME, FRAMEWORK_DISTRIBUTION, __version__, "")
        source_changes.append(SourceChange("framework", recorded, current))
    for path, recorded in locked_components(lockfile).items():
        try:
            current = installed_catalog().find(recorded.kind, recorded.name)
            source = source_sha256(current)
        except (RecipeError, PluginError):
            continue
        if source != recorded.sha256:
            source_changes.append(SourceChange(path, recorded, current))
    return source_changes


def check_source_changes(
    folder: Path,
    lockfile: Mapping[str, Any],
    load: Callable[[], Interpreter],
    read_golden_batch: Callable[[Interpreter], Mapping[str, Tensor]],
) -> str | None:
    """Checks the model on the golden batch if the source code of one of its components has changed.

    Args:
        folder: The checkpoint, for messages.
        lockfile: Its lockfile.
        load: Builds the model; called only if source code has changed.
        read_golden_batch: Reads the golden batch for that model; called only if source code has changed.

    Returns:
        A message for the user if source code has changed and the outputs are still the same; None if nothing has changed.

    Raises:
        CheckpointError: The outputs differ, or the components no longer accept the checkpoint's options or weights.
    """
    source_changes = find_source_changes(lockfile)
    if not source_changes:
        return None
    try:
        model = load()
        differences = compare_golden(model, read_golden_batch(model))
    except RecipeError as error:
        differences = [f"its recipe is no longer valid: {problem.message}" for problem in error.problems]
    except CheckpointError as error:
        differences = [str(error)]
    if differences:
        raise CheckpointError(
            "\n  ".join(
                [
                    _MODEL_CHANGED.format(folder),
                    *map(str, source_changes),
                    *differences,
                    _format_remedies(folder, source_changes),
                ]
            )
        )
    return (
        f"{folder}: its model gives the same outputs as before, although code has changed since it was saved: "
        f"{format_changes(source_changes)}"
    )


def format_changes(source_changes: Sequence[SourceChange]) -> str:
    """Returns all source changes on one line."""
    by_version: dict[str, list[str]] = {}
    for change in source_changes:
        now = "the same version" if change.is_same_version else change.current.source
        by_version.setdefault(f"of {change.recorded.origin}, now {now}", []).append(change.recorded.label)
    return "; ".join(f"{', '.join(dict.fromkeys(labels))} {versions}" for versions, labels in by_version.items())


_MODEL_CHANGED = "{}: its model no longer gives the outputs that it gave when it was saved: code has changed since then"


def _format_remedies(folder: Path, source_changes: Sequence[SourceChange]) -> str:
    remedies = (
        reinstall_command(change.recorded.distribution, change.recorded.version, change.is_same_version)
        for change in source_changes
    )
    return (
        f"help: install what it was saved with: {', '.join(dict.fromkeys(remedies))}; "
        f"or start a new run with the current code from its weights: ni train RECIPE --from {folder}"
    )
