"""Caches the result of `ni check` for valid recipes, so that checking an unchanged recipe again imports no component.

The key covers everything that the result depends on: the recipe's files, the overrides, every installed component with the
size and time of its package's source files, the framework's own, and the versions of Python and torch. Errors are never cached.
The environment variable NI_CACHE_DIR names another folder than ~/.cache/ni_framework.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ni_framework.errors import NIError
from ni_framework.recipe.parsing.parser import NodeBudget
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.parsing.source import decode, read_bytes, source_from_text
from ni_framework.recipe.resolve.extends import MAX_CHAIN, read_tree, split_extends
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.discover import normalize_distribution
from ni_framework.utils.atomic_files import atomic_write

if TYPE_CHECKING:
    from ni_framework.recipe import Recipe

MAX_AGE_DAYS = 30


def compute_check_key(recipe: str, overrides: Sequence[str]) -> str | None:
    """The key of a check; None if nothing is cached: a file cannot be read, or a plugin is a single file (`--plugin`).

    Args:
        recipe: The path of the recipe.
        overrides: Overrides as on the command line.
    """
    digest = hashlib.sha256()
    try:
        for part in (sys.version, metadata.version("torch"), *overrides):
            _update(digest, part.encode())
        for path, content in _iter_recipe_files(recipe):
            _update(digest, path.encode(), content)
        catalog = installed_catalog()
        if any(entry.is_file_plugin for entry in catalog.entries):
            return None
        for entry in catalog.entries:
            rejection = catalog.find_rejection(entry)
            _update(digest, repr(entry).encode(), repr(rejection).encode())
        for package in sorted({"ni_framework", *(entry.package for entry in catalog.entries)}):
            for source in _iter_sources(package):
                _update(digest, source.encode())
    except (NIError, OSError, ValueError, ImportError, metadata.PackageNotFoundError):
        return None
    return digest.hexdigest()


def is_cacheable(recipe: Recipe) -> bool:
    """Whether the key covers all distributions that a recipe requires: those with components are in it, with their versions."""
    from packaging.requirements import Requirement

    known = {normalize_distribution(entry.distribution) for entry in installed_catalog().entries}
    return all(normalize_distribution(Requirement(text).name) in known for text in recipe.requires)


def read_cached_check(key: str) -> dict[str, Any] | None:
    """The document that `write_cached_check` wrote under a key; None if it does not exist."""
    try:
        document = json.loads((_cache_dir() / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def write_cached_check(key: str, document: dict[str, Any]) -> None:
    """Stores a document under a key, and removes those that are old. A folder that cannot be written is no error."""
    folder = _cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"{key}.json", json.dumps(document).encode())
        oldest = time.time() - MAX_AGE_DAYS * 86_400
        for path in folder.glob("*.json"):
            if path.stat().st_mtime < oldest:
                path.unlink()
    except (NIError, OSError):
        return


def _cache_dir() -> Path:
    if folder := os.environ.get("NI_CACHE_DIR"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ni_framework"


def _update(digest: Any, *parts: bytes) -> None:
    # With its length before each part, no two lists of parts look the same.
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)


def _iter_recipe_files(path: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of a recipe and of those that it extends."""
    for _ in range(MAX_CHAIN):
        content = read_bytes(path)
        yield os.path.realpath(path), content
        problems = Problems()
        _, extends = split_extends(
            read_tree(source_from_text(path, decode(path, content)), problems, NodeBudget()), problems
        )
        problems.raise_if_any()
        if extends is None:
            return
        path = os.path.join(os.path.dirname(path), str(extends.value))


def _iter_sources(package: str) -> Iterator[str]:
    """Path, size and time of every source file of a package, which is not imported."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    paths = [Path(spec.origin)] if spec and spec.origin else []
    for folder in folders or ():
        paths += Path(folder).rglob("*.py")
    for path in sorted(set(paths)):
        status = path.stat()
        yield f"{path} {status.st_size} {status.st_mtime_ns}"
