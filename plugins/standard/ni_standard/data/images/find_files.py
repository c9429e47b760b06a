"""Files of a data set that the user has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ni_framework.errors import RunError


def home(path: str) -> Path:
    """A path with `~` for the user's own folder; raises `RunError` for a user that there is not."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RunError(f"{path}: there is no such user; name the folder without ~") from error


def find(root: str, names: Sequence[str | tuple[str, ...]], what: str) -> list[Path]:
    """The files or folders of these names under a folder; of several names for one, the first that is there.

    Raises `RunError` that says which are missing, where all are expected, and what they are.
    """
    folder = home(root)
    found, missing = [], []
    for name in names:
        given = (name,) if isinstance(name, str) else name
        paths = [folder / each for each in given if (folder / each).exists()]
        found += paths[:1]
        if not paths:
            missing.append(given[0])
    if missing:
        raise RunError(
            f"{folder.absolute()}: has no {', '.join(missing)}; put the files of {what} there, "
            "or let the data's `root` in the recipe name the folder that holds them"
        )
    return found
