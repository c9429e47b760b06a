"""The manifest of a checkpoint: what it is, and the size and checksum of every file in it, its own included."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen, validators

from ni_framework.errors import CheckpointError
from ni_framework.utils.atomic_files import digest, open_plain
from ni_framework.utils.nonfinite_json import finite

FORMAT = 3
READ = (2, FORMAT)  # 2: before several processes could write one checkpoint; otherwise the same
MANIFEST = "checkpoint.json"
WEIGHTS, AVERAGE, TRAINING = "model.safetensors", "average.safetensors", "training.safetensors"
RECIPE, LOCK, GOLDEN = "recipe.yaml", "lock.json", "golden.safetensors"
REQUIRED = {WEIGHTS, TRAINING, RECIPE, LOCK, GOLDEN}
LARGEST = 16 * 2**20  # bytes of a manifest; one with the shapes of ten thousand tensors has two million
_NAME = re.compile(
    r"(?P<stem>[a-z][a-z0-9_]*)(-(?P<shard>0|[1-9][0-9]{0,5})-of-(?P<number>[1-9][0-9]{0,5}))?(?P<suffix>\.[a-z]+)"
)


def shard_name(name: str, rank: int, size: int) -> str:
    """The file that one of several processes writes for what is one file if there is one process."""
    stem, _, suffix = name.partition(".")
    return name if size == 1 else f"{stem}-{rank}-of-{size}.{suffix}"


def shards_of(files: Iterable[str], name: str) -> list[str]:
    """The files of a checkpoint that hold what `name` stands for, in the order of the processes that wrote them."""
    found = [(match, file) for file in files if (match := _NAME.fullmatch(file)) and _whole_name(match) == name]
    return [file for _, file in sorted(found, key=lambda pair: int(pair[0]["shard"] or 0))]


def _whole_name(match: re.Match[str]) -> str:
    return match["stem"] + match["suffix"]


def _known_files(_: object, __: object, files: Mapping[str, Any]) -> None:
    present: dict[str, list[re.Match[str]]] = {}
    for name, entry in files.items():
        whole = isinstance(entry, dict) and entry.keys() == {"size", "sha256"}
        match = _NAME.fullmatch(name)
        if not match or not whole or type(entry["size"]) is not int or entry["size"] < 0:
            raise ValueError(f"{name!r} is no file of a checkpoint")
        present.setdefault(_whole_name(match), []).append(match)
    if absent := sorted(REQUIRED - present.keys()):
        raise ValueError(f"it lacks {absent[0]}")
    for name, matches in present.items():
        number = int(matches[0]["number"] or 1)
        wanted = {shard_name(name, rank, number) for rank in range(number)} if number <= len(matches) else {""}
        if wanted != {match[0] for match in matches}:
            raise ValueError(f"{name} is not whole: it has {len(matches)} of {number} parts")


def _known_pieces(_: object, __: object, pieces: Mapping[str, Any]) -> None:
    for name, shapes in pieces.items():
        if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
            raise ValueError(f"{name!r} names no shapes of tensors")


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**48 for size in shape) and len(shape) < 65
    )


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
    # By file and name, the shapes of the tensors that lie in it in pieces.
    pieces: dict[str, dict[str, list[int]]] = field(factory=dict, validator=_known_pieces)

    @property
    def whole_files(self) -> set[str]:
        """The files, each by the name that it would have if one process had written it."""
        return {_whole_name(match) for file in self.files if (match := _NAME.fullmatch(file))}


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
    if known not in READ or isinstance(known, bool):
        newer = isinstance(known, int) and known > FORMAT
        remedy = "upgrade ni_framework" if newer else "use the ni_framework that wrote it"
        reads = " and ".join(map(str, READ))
        raise CheckpointError(f"{folder}: has checkpoint format {known!r}, this ni_framework reads {reads}; {remedy}")
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


def check_files(folder: Path, share: slice = slice(None)) -> Manifest:
    """The manifest of a checkpoint of which every file, or a share of them, has been compared with it.

    Raises `CheckpointError` for a file that is another.
    """
    manifest = read_manifest(folder)
    for name in list(manifest.files)[share]:
        check_file(folder, manifest, name)
    return manifest


def check_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Compares a file of a checkpoint with its manifest, a little at a time; raises `CheckpointError` if it is another."""
    with _opened(folder, manifest, name) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest.files[name]["sha256"]:
            raise _damaged(folder / name, "its checksum differs")


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
