"""The manifest of a checkpoint: what it is, and the size and checksum of every file in it, its own included."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen, validators

from ni_framework.engine.files import digest, open_plain
from ni_framework.engine.strict_json import finite
from ni_framework.errors import CheckpointError

FORMAT = 2
MANIFEST = "checkpoint.json"
WEIGHTS, AVERAGE, TRAINING = "model.safetensors", "average.safetensors", "training.safetensors"
RECIPE, LOCK, GOLDEN = "recipe.yaml", "lock.json", "golden.safetensors"
REQUIRED = {WEIGHTS, TRAINING, RECIPE, LOCK, GOLDEN}
LARGEST = 16 * 2**20  # bytes of a manifest; the largest that is written has a few kilobytes
_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z]+")


def _known_files(_: object, __: object, files: Mapping[str, Any]) -> None:
    for name, entry in files.items():
        whole = isinstance(entry, dict) and entry.keys() == {"size", "sha256"}
        if not _NAME.fullmatch(name) or not whole or type(entry["size"]) is not int or entry["size"] < 0:
            raise ValueError(f"{name!r} is no file of a checkpoint")
    if absent := sorted(REQUIRED - files.keys()):
        raise ValueError(f"it lacks {absent[0]}")


_whole = [validators.instance_of(int), validators.ge(0)]
_steps = validators.optional([validators.instance_of(int), validators.ge(1)])


@frozen
class Manifest:
    """What a checkpoint says of itself; `evaluated` tells whether the evaluation that was due at its step was made."""

    step: int = field(validator=_whole)
    seconds: float = field(validator=validators.instance_of((int, float)))  # of training so far
    name: str = field(validator=validators.instance_of(str))  # of the recipe
    evaluated: bool = field(validator=validators.instance_of(bool))
    every: int | None = field(validator=_steps)  # steps between checkpoints, and how many are kept, as the run was told
    keep: int | None = field(validator=_steps)
    metrics: dict[str, float | None] = field(  # null: not finite
        validator=validators.deep_mapping(
            validators.instance_of(str), validators.optional(validators.instance_of((int, float))), None
        )
    )
    files: dict[str, dict[str, Any]] = field(validator=_known_files)


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it is written: there is one spelling only, and it holds its own checksum."""
    document = {"format": FORMAT} | finite(asdict(manifest))
    return _spelled(document | {"sha256": digest(_spelled(document))})


def _spelled(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def file_entry(content: bytes) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"size": len(content), "sha256": digest(content)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint; the files that it names are not looked at.

    Raises `CheckpointError` for a foreign, damaged or newer one.
    """
    path = folder / MANIFEST
    try:
        with open_plain(path, LARGEST) as file:
            content = file.read()
        document = json.loads(content)
        known = document["format"]
    except OSError as error:
        raise CheckpointError(f"{path}: {_said(error)}; name another checkpoint") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no manifest of ni_framework ({type(error).__name__}: {str(error)[:100]}); name another checkpoint"
        ) from error
    if known != FORMAT:
        newer = isinstance(known, int) and known > FORMAT
        remedy = "upgrade ni_framework" if newer else "use the ni_framework that wrote it"
        raise CheckpointError(f"{folder}: has checkpoint format {known!r}, this ni_framework reads {FORMAT}; {remedy}")
    try:
        stated = document.pop("sha256")
        if stated != digest(_spelled(document)) or content != _spelled(document | {"sha256": stated}):
            raise _damaged(path, "its checksum differs")
        del document["format"]
        manifest = Manifest(**document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no manifest of ni_framework ({str(error.args[0])[:100]}); name another checkpoint"
        ) from error
    if step_of(folder) not in (None, manifest.step):
        raise CheckpointError(f"{folder}: holds the checkpoint of step {manifest.step}; use another checkpoint")
    return manifest


def step_of(folder: Path) -> int | None:
    """The step in a checkpoint's name; None for another folder."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isascii() and number.isdecimal() else None


def check_files(folder: Path) -> Manifest:
    """The manifest of a checkpoint of which every file has been compared with it; raises `CheckpointError`."""
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        with _opened(folder, manifest, name) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise _damaged(folder / name, "its checksum differs")
    return manifest


def read_checked(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The content of a file of a checkpoint, which is what the manifest says; raises `CheckpointError` if it is not."""
    with _opened(folder, manifest, name) as file:
        content = file.read()
    if digest(content) != manifest.files[name]["sha256"]:
        raise _damaged(folder / name, "its checksum differs")
    return content


@contextmanager
def _opened(folder: Path, manifest: Manifest, name: str) -> Iterator[BufferedReader]:
    path, size = folder / name, manifest.files[name]["size"]
    try:
        with open_plain(path, size) as file:
            if (found := os.fstat(file.fileno()).st_size) != size:
                raise _damaged(path, f"it has {found:,} bytes, not {size:,}")
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: {_said(error)}; use another checkpoint") from error


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{path}: is damaged ({how}); use another checkpoint")


def _said(error: OSError) -> str:
    """Why a file cannot be read."""
    if error.errno is None:
        return str(error.strerror)
    return "is a link, and no plain file" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
