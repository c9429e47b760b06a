"""Finds the files of a data set that the user provides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ni_framework.errors import RunError


def expand_home(path: str) -> Path:
    """Returns a path with `~` replaced by the home folder; raises `RunError` for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RunError(f"{path}: there is no such user; write the path of the folder without ~") from error


def find_files(root: str, names: Sequence[str | tuple[str, ...]], description: str) -> list[Path]:
    """Returns the paths of files or folders under a folder.

    Args:
        root: The folder; `~` is the home folder.
        names: Names below the folder; of several names in a tuple, the first that exists is used.
        description: What the files are, for the error message.

    Raises:
        RunError: Files are missing; the message lists them, the folder and the description.
    """
    folder = expand_home(root)
    paths_found, missing = [], []
    for name in names:
        alternatives = (name,) if isinstance(name, str) else name
        paths = [folder / each for each in alternatives if (folder / each).exists()]
        paths_found += paths[:1]
        if not paths:
            missing.append(alternatives[0])
    if missing:
        raise RunError(
            f"{folder.absolute()}: has no {', '.join(missing)}; put the files of {description} there, "
            "or set `root` of the data in the recipe to the folder that contains them"
        )
    return paths_found
