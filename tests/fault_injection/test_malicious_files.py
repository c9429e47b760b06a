"""Malicious checkpoints: no code is executed, no file outside is read or written, and each is rejected with a message.

The checksums of every artefact are right, because they protect against accidents, not against attackers who compute them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ni_framework.checkpoint.load import load_model
from ni_framework.checkpoint.manifest import check_files, read_manifest
from ni_framework.checkpoint.verify import verify
from ni_framework.errors import NIError
from ni_framework.training.train import resume, train
from tests.helpers.small_recipe import load_small_recipe, rewrite_checkpoint_file

TENSOR_FILES = ("model.safetensors", "average.safetensors", "training.safetensors", "golden.safetensors")
# How much reading all artefacts may add to the peak memory of the process.
MAX_EXTRA_MIB = 64


def pickle_streams(marker: Path) -> dict[str, bytes]:
    """Returns pickles that create the marker if they are loaded, one for each opcode that calls a function."""
    command = f"open({str(marker)!r}, 'w').close()".encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    call = b"c__builtin__\nexec\n"
    return {
        "GLOBAL": b"\x80\x02" + call + b"(" + text + b"tR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + text + b"\x85R.",
        "INST": b"(" + text + b"i__builtin__\nexec\n.",
        "OBJ": b"(" + call + text + b"o.",
        "BUILD": b"\x80\x02" + call + b"(" + text + b"tR}b.",
    }


def zip_archive(members: dict[str, bytes]) -> bytes:
    """Returns an archive like those of torch's own format."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def safetensors_file(header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    """Returns a safetensors file with a header that may be wrong.

    Args:
        header: The header, as bytes or as a document.
        data: The values.
        length: The length of the header, if it is wrong.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def header_entry(dtype: object = "F32", shape: object = (16,), offsets: object = (0, 64)) -> dict[str, Any]:
    """Returns the entry of a tensor in a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def malicious_tensor_files(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of malicious files of tensors."""
    for name, stream in pickle_streams(marker).items():
        yield name, stream
        yield f"{name} in an archive", zip_archive({"archive/data.pkl": stream, "archive/version": b"3"})
    yield "members outside", zip_archive({"../../outside": b"x", "/tmp/outside": b"x"})
    yield (
        "an archive in an archive",
        zip_archive({"data.pkl": zip_archive({"data.pkl": pickle_streams(marker)["GLOBAL"]})}),
    )
    yield "TorchScript", zip_archive({"archive/code/__torch__.py": b"import os", "archive/constants.pkl": b"."})
    yield (
        "an array of objects",
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}" + b".",
    )
    yield "a header of 2^63 bytes", safetensors_file({}, length=2**63)
    yield "a header of 200 MB", safetensors_file({}, length=200 * 2**20)
    yield "a header beyond the end", safetensors_file({}, length=10_000)
    yield "no header", b""
    yield "half a length", b"\x08\0\0"
    yield "a header that is not JSON", safetensors_file(b"{]")
    yield "a header that is a list", safetensors_file([])
    yield "overlapping", safetensors_file({"a": header_entry(), "b": header_entry(offsets=(0, 64))})
    yield (
        "a hole",
        safetensors_file(
            {"a": header_entry(shape=(8,), offsets=(0, 32)), "b": header_entry(shape=(4,), offsets=(48, 64))}
        ),
    )
    yield "beyond the end", safetensors_file({"a": header_entry(shape=(1000,), offsets=(0, 4000))})
    yield "backwards", safetensors_file({"a": header_entry(offsets=(64, 0))})
    yield "negative offsets", safetensors_file({"a": header_entry(offsets=(-64, 0))})
    yield "a negative size", safetensors_file({"a": header_entry(shape=(-16,))})
    yield "a wrong shape", safetensors_file({"a": header_entry(shape=(17,))})
    yield "2^62 by 8", safetensors_file({"a": header_entry(shape=(2**62, 8))})
    yield "no shape", safetensors_file({"a": {"dtype": "F32", "data_offsets": [0, 64]}})
    yield "an unknown type", safetensors_file({"a": header_entry(dtype="OBJECT")})
    yield "a wrong type", safetensors_file({"a": header_entry(dtype="F64")})
    yield "one name twice", safetensors_file(b'{"a": %s, "a": %s}' % ((json.dumps(header_entry()).encode(),) * 2))
    yield "deep", safetensors_file(b'{"a":' * 100_000)
    yield "other tensors", safetensors_file({"a": header_entry()})


def encode_manifest(document: object) -> bytes:
    """Returns a manifest in canonical form."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def malicious_files(folder: Path, marker: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields names of malicious manifests, recipes, lockfiles and file types, with functions that write them.

    Args:
        folder: The checkpoint to change.
        marker: A file outside, which malicious code would create.
    """
    yield from malicious_manifest_entries(folder)
    yield from malicious_file_types(folder, marker)
    yield from malicious_recipes(folder, marker)
    for lock in (b"[]", b"{" * 100_000, b"\xff", b'{"components": 3}'):
        yield f"a lock of {lock[:8]!r}", lambda lock=lock: rewrite_checkpoint_file(folder, "lock.json", lock)
    for manifest in (
        b"{" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"format": 1e999}',
        b"null",
        b'{"format": 2}',
        b'{"format": 4}',
        b'{"format": "' + b"4" * 10_000 + b'"}',
        b"\xff",
    ):
        yield (
            f"a manifest of {manifest[:14]!r}",
            lambda content=manifest: (folder / "checkpoint.json").write_bytes(content),
        )


def malicious_manifest_entries(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields manifests whose checksum is right and whose entries are not."""

    def with_manifest(**changes: Any) -> Callable[[], object]:
        def write() -> None:
            document = json.loads((folder / "checkpoint.json").read_text()) | changes
            del document["sha256"]
            document["sha256"] = hashlib.sha256(encode_manifest(document)).hexdigest()
            (folder / "checkpoint.json").write_bytes(encode_manifest(document))

        return write

    files = read_manifest(folder).files
    any_entry = {"size": 7, "sha256": "0" * 64}
    for name in ("../../outside", "/etc/passwd", "a/b.c", "..", ".hidden", "a\nb.c", "con:x.y", ""):
        yield f"a file called {name!r}", with_manifest(files=files | {name: any_entry})
    for size in (-1, 2**80, 1.5, "7", None, True):
        yield (
            f"a size of {size!r}",
            with_manifest(files=files | {"model.safetensors": {"size": size, "sha256": "0" * 64}}),
        )
    for step in (-1, "1", 1.5, None, [1]):
        yield f"a step of {step!r}", with_manifest(step=step)
    yield "metrics in a list", with_manifest(metrics={"a": [1]})
    yield "missing files", with_manifest(files={name: value for name, value in files.items() if name != "recipe.yaml"})


def malicious_file_types(folder: Path, marker: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields links, devices, pipes and folders in the place of the weights."""

    def replace_weights(make: Callable[[Path], object]) -> Callable[[], object]:
        def write() -> None:
            path = folder / "model.safetensors"
            path.unlink()
            make(path)

        return write

    outside = marker.with_name("outside.safetensors")
    outside.write_bytes((folder / "model.safetensors").read_bytes())
    yield "a link outside", replace_weights(lambda path: path.symlink_to(outside))
    yield "an endless device", replace_weights(lambda path: path.symlink_to("/dev/zero"))
    yield "a pipe", replace_weights(lambda path: os.mkfifo(path))
    yield "a folder", replace_weights(lambda path: path.mkdir())


def malicious_recipes(folder: Path, marker: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields recipes that name code, reach outside, or grow without end."""
    recipe = (folder / "recipe.yaml").read_text()
    for text in (
        "!!python/object/apply:os.system ['touch x']",
        recipe.replace("use: classify", f"use: '{marker}'"),
        recipe.replace("use: classify", "use: os.system"),
        recipe + "extends: ../../../../etc/passwd\n",
        "a: &a [1]\nb: [" + "*a, " * 10_000 + "]",
        "\xff\0",
    ):
        yield (
            f"a recipe with {text[:20]!r}",
            lambda text=text: rewrite_checkpoint_file(folder, "recipe.yaml", text.encode()),
        )


def read_every_way(checkpoint: Path, run: Path) -> Iterator[Callable[[], object]]:
    """Yields functions for every way to read a checkpoint."""
    yield lambda: check_files(checkpoint)
    yield lambda: load_model(checkpoint)
    yield lambda: verify(checkpoint)
    yield lambda: resume(checkpoint, run_dir=run)


def peak_memory_mib() -> float:
    """Returns the peak memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_malicious_artefacts_are_rejected(tmp_path: Path) -> None:
    """By everything that reads them, without executing code, changing files outside, crashing or using much memory."""
    marker = tmp_path / "executed"
    train(load_small_recipe(tmp_path, "train.steps=1", "train.ema_decay=0.5"), tmp_path / "run", checkpoint_every=1)
    train(load_small_recipe(tmp_path, "train.steps=3", "train.ema_decay=0.5"), tmp_path / "good", checkpoint_every=1)
    good = tmp_path / "good" / "checkpoints" / "step-1"
    folder = tmp_path / "malicious"
    artefacts: list[tuple[str, Callable[[], object]]] = []
    for number, (name, content) in enumerate(malicious_tensor_files(marker)):
        for file in (TENSOR_FILES[0], TENSOR_FILES[1 + number % 3]):
            artefacts.append(
                (f"{name} as {file}", lambda file=file, content=content: rewrite_checkpoint_file(folder, file, content))
            )
    shutil.copytree(good, folder)
    artefacts += malicious_files(folder, marker)
    assert len(artefacts) >= 100
    outside = sorted(path for path in tmp_path.rglob("*") if folder not in path.parents)
    peak = peak_memory_mib()
    errors: list[tuple[str, str]] = []
    for name, write_artefact in artefacts:
        shutil.rmtree(folder)
        shutil.copytree(good, folder)
        write_artefact()
        rejections = 0
        for use in read_every_way(folder, tmp_path / "resumed"):
            try:
                use()
            except NIError as error:
                rejections += 1
                errors.append((name, str(error)))
            shutil.rmtree(tmp_path / "resumed", ignore_errors=True)
        assert rejections, name
        assert not marker.exists(), name
    assert sorted(path for path in tmp_path.rglob("*") if folder not in path.parents) == outside
    grown = peak_memory_mib() - peak
    print(f"{len(artefacts)} artefacts, {len(errors)} rejections; peak memory grew by {grown:.0f} MiB")
    assert [name for name, text in errors if not 0 < len(text) < 2000] == []
    assert grown < MAX_EXTRA_MIB


@pytest.mark.parametrize("name", ["GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "BUILD"])
def test_pickle_streams_execute_when_unpickled(tmp_path: Path, name: str) -> None:
    """A control for the test above: the pickles do execute code if they are loaded."""
    import pickle

    marker = tmp_path / "executed"
    # Errors after the execution do not matter.
    with contextlib.suppress(Exception):
        pickle.loads(pickle_streams(marker)[name])
    assert marker.exists()
