"""The manifest of a checkpoint: what it contains, and the size and checksum of every file, its own checksum included."""

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
from ni_framework.utils.atomic_files import open_regular_file, sha256_hex
from ni_framework.utils.nonfinite_json import nonfinite_to_null

CHECKPOINT_FORMAT = 4
MANIFEST_FILE = "checkpoint.json"
WEIGHTS_FILE, EMA_WEIGHTS_FILE, TRAINING_STATE_FILE = "model.safetensors", "average.safetensors", "training.safetensors"
RECIPE_FILE, LOCKFILE, GOLDEN_FILE = "recipe.yaml", "lock.json", "golden.safetensors"
REQUIRED_FILES = {WEIGHTS_FILE, TRAINING_STATE_FILE, RECIPE_FILE, LOCKFILE, GOLDEN_FILE}
# A manifest with the shapes of ten thousand tensors has about two million bytes.
MAX_MANIFEST_BYTES = 16 * 2**20
_FILE_NAME = re.compile(
    r"(?P<stem>[a-z][a-z0-9_]*)(-(?P<shard>0|[1-9][0-9]{0,5})-of-(?P<number>[1-9][0-9]{0,5}))?(?P<suffix>\.[a-z]+)"
)


def shard_name(name: str, rank: int, world_size: int) -> str:
    """Returns the name of the shard of a file that a rank writes; with one rank, the name of the file itself.

    Args:
        name: The logical name of the file.
        rank: The rank.
        world_size: The number of ranks.
    """
    stem, _, suffix = name.partition(".")
    return name if world_size == 1 else f"{stem}-{rank}-of-{world_size}.{suffix}"


def shard_files(files: Iterable[str], name: str) -> list[str]:
    """Returns the files of a checkpoint that are shards of the logical file `name`, by rank."""
    matches = [match for file in files if (match := _FILE_NAME.fullmatch(file)) and _logical_name(match) == name]
    return [match[0] for match in sorted(matches, key=lambda match: int(match["shard"] or 0))]


def _logical_name(match: re.Match[str]) -> str:
    return match["stem"] + match["suffix"]


def _validate_files(_: object, __: object, files: Mapping[str, Any]) -> None:
    present: dict[str, list[re.Match[str]]] = {}
    for name, entry in files.items():
        is_entry = isinstance(entry, dict) and entry.keys() == {"size", "sha256"}
        match = _FILE_NAME.fullmatch(name)
        if not match or not is_entry or type(entry["size"]) is not int or entry["size"] < 0:
            raise ValueError(f"{name!r} is not a file of a checkpoint")
        present.setdefault(_logical_name(match), []).append(match)
    if absent := sorted(REQUIRED_FILES - present.keys()):
        raise ValueError(f"it lacks {absent[0]}")
    for name, matches in present.items():
        world_size = int(matches[0]["number"] or 1)
        expected = (
            {shard_name(name, rank, world_size) for rank in range(world_size)} if world_size <= len(matches) else {""}
        )
        if expected != {match[0] for match in matches}:
            raise ValueError(f"{name} is incomplete: it has {len(matches)} of {world_size} shards")


def _validate_shard_shapes(_: object, __: object, shard_shapes: Mapping[str, Any]) -> None:
    for name, shapes in shard_shapes.items():
        if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
            raise ValueError(f"{name!r} does not map tensors to shapes")


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**48 for size in shape) and len(shape) < 65
    )


_non_negative_int = [validators.instance_of(int), validators.ge(0)]
_optional_step_count = validators.optional([validators.instance_of(int), validators.ge(1)])


@frozen
class Manifest:
    """The contents of a manifest.

    Attributes:
        step: The number of training steps done.
        seconds: The training time so far.
        name: The name of the recipe.
        evaluated: Whether the evaluation that was due at this step was done.
        every: Steps between two checkpoints, as the run was started with.
        keep: How many checkpoints are kept, as the run was started with.
        metrics: The last metrics; None for a value that is not finite.
        files: Size and SHA-256 of each file.
        shard_shapes: By logical file and tensor name, the whole shapes of tensors that are sharded; `pieces` in the file.
    """

    step: int = field(validator=_non_negative_int)
    seconds: float = field(validator=validators.instance_of((int, float)))
    name: str = field(validator=validators.instance_of(str))
    evaluated: bool = field(validator=validators.instance_of(bool))
    every: int | None = field(validator=_optional_step_count)
    keep: int | None = field(validator=_optional_step_count)
    metrics: dict[str, float | None] = field(
        validator=validators.deep_mapping(
            validators.instance_of(str), validators.optional(validators.instance_of((int, float))), None
        )
    )
    files: dict[str, dict[str, Any]] = field(validator=_validate_files)
    shard_shapes: dict[str, dict[str, list[int]]] = field(factory=dict, validator=_validate_shard_shapes)

    @property
    def logical_files(self) -> set[str]:
        """The logical files: the names that the files would have if one rank had written them."""
        return {_logical_name(match) for file in self.files if (match := _FILE_NAME.fullmatch(file))}


def encode_manifest(manifest: Manifest) -> bytes:
    """Returns the manifest as it is written: in canonical form, with its own checksum."""
    document = {"format": CHECKPOINT_FORMAT} | nonfinite_to_null(asdict(manifest))
    document["pieces"] = document.pop("shard_shapes")
    return _canonical_json(document | {"sha256": sha256_hex(_canonical_json(document))})


def _canonical_json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def file_entry(content: bytes) -> dict[str, Any]:
    """Returns the entry of a file in a manifest."""
    return {"size": len(content), "sha256": sha256_hex(content)}


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a checkpoint, without reading the files that it names.

    Raises `CheckpointError` if it is damaged, of another program, or of another format.
    """
    path = folder / MANIFEST_FILE
    try:
        with open_regular_file(path, MAX_MANIFEST_BYTES) as file:
            content = file.read()
        document = json.loads(content)
        format_number = document["format"]
    except OSError as error:
        raise CheckpointError(f"{path}: {_describe_read_error(error)}; name another checkpoint") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not a manifest of ni_framework ({type(error).__name__}: {str(error)[:100]}); "
            "name another checkpoint"
        ) from error
    _check_format(path, format_number)
    try:
        stated = document.pop("sha256")
        if stated != sha256_hex(_canonical_json(document)) or content != _canonical_json(document | {"sha256": stated}):
            raise _damaged_error(path, "its checksum differs")
        del document["format"]
        document["shard_shapes"] = document.pop("pieces")
        manifest = Manifest(**document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not a manifest of ni_framework ({str(error.args[0])[:100]}); name another checkpoint"
        ) from error
    if step_from_name(folder) not in (None, manifest.step):
        raise CheckpointError(f"{folder}: contains the checkpoint of step {manifest.step}; use another checkpoint")
    return manifest


def _check_format(path: Path, format_number: object) -> None:
    """Raises `CheckpointError`, with what to do, unless a manifest has the format that this version reads."""
    is_number = type(format_number) is int
    if is_number and format_number == CHECKPOINT_FORMAT:
        return
    if is_number and format_number > CHECKPOINT_FORMAT:
        remedy = "upgrade ni_framework"
    elif is_number and format_number > 0:
        remedy = "load it with the version of ni_framework that wrote it, or train again from its recipe"
    else:
        remedy = "name another checkpoint"
    raise CheckpointError(
        f"{path}: has checkpoint format {repr(format_number)[:40]}, this version of ni_framework reads format "
        f"{CHECKPOINT_FORMAT}; {remedy}"
    )


def step_from_name(folder: Path) -> int | None:
    """Returns the step in the name of a checkpoint folder; None for another folder."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isascii() and number.isdecimal() else None


def check_files(folder: Path, selection: slice = slice(None)) -> Manifest:
    """Compares every file of a checkpoint, or a selection of them, with its manifest, and returns the manifest.

    Raises `CheckpointError` for a file that differs.
    """
    manifest = read_manifest(folder)
    for name in list(manifest.files)[selection]:
        check_file(folder, manifest, name)
    return manifest


def check_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Compares a file of a checkpoint with its manifest, without reading it into memory as a whole.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.
        name: The file.

    Raises:
        CheckpointError: The file differs.
    """
    with _open_file(folder, manifest, name) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest.files[name]["sha256"]:
            raise _damaged_error(folder / name, "its checksum differs")


def read_checked(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Returns the content of a file of a checkpoint.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.
        name: The file.

    Raises:
        CheckpointError: The content differs from the manifest.
    """
    with _open_file(folder, manifest, name) as file:
        content = file.read()
    if sha256_hex(content) != manifest.files[name]["sha256"]:
        raise _damaged_error(folder / name, "its checksum differs")
    return content


@contextmanager
def _open_file(folder: Path, manifest: Manifest, name: str) -> Iterator[BufferedReader]:
    path, size = folder / name, manifest.files[name]["size"]
    try:
        with open_regular_file(path, size) as file:
            if (actual_size := os.fstat(file.fileno()).st_size) != size:
                raise _damaged_error(path, f"it has {actual_size:,} bytes, not {size:,}")
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: {_describe_read_error(error)}; use another checkpoint") from error


def _damaged_error(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: is damaged ({reason}); use another checkpoint")


def _describe_read_error(error: OSError) -> str:
    """Returns why a file cannot be read."""
    if error.errno is None:
        return str(error.strerror)
    return "is a link, not a regular file" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
