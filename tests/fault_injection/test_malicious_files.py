"""Hostile checkpoints: nothing in them is executed, nothing outside of them is read or written, each is refused in words.

Every artefact's manifest agrees with it: checksums protect against accidents, not against those who can compute them.
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
from tests.helpers.small_recipe import rewritten, small_recipe

TENSORS = ("model.safetensors", "average.safetensors", "training.safetensors", "golden.safetensors")
MEMORY = 64  # MiB that reading all of it may add to the peak of the process


def opcodes(marker: Path) -> dict[str, bytes]:
    """Streams that would create the marker if anything executed them, one for each way of calling."""
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


def zipped(members: dict[str, bytes]) -> bytes:
    """An archive like those of torch's own format."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tensors(header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    """A safetensors file with this header, which may lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (16,), offsets: object = (0, 64)) -> dict[str, Any]:
    """What a safetensors header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def contents(marker: Path) -> Iterator[tuple[str, bytes]]:
    """What may stand in a file of tensors."""
    for name, stream in opcodes(marker).items():
        yield name, stream
        yield f"{name} in an archive", zipped({"archive/data.pkl": stream, "archive/version": b"3"})
    yield "members outside", zipped({"../../outside": b"x", "/tmp/outside": b"x"})
    yield "an archive in an archive", zipped({"data.pkl": zipped({"data.pkl": opcodes(marker)["GLOBAL"]})})
    yield "TorchScript", zipped({"archive/code/__torch__.py": b"import os", "archive/constants.pkl": b"."})
    yield (
        "an array of objects",
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}" + b".",
    )
    yield "a header of 2^63 bytes", tensors({}, length=2**63)
    yield "a header of 200 MB", tensors({}, length=200 * 2**20)
    yield "a header beyond the end", tensors({}, length=10_000)
    yield "no header", b""
    yield "half a length", b"\x08\0\0"
    yield "a header that is no JSON", tensors(b"{]")
    yield "a header that is a list", tensors([])
    yield "overlapping", tensors({"a": entry(), "b": entry(offsets=(0, 64))})
    yield "a hole", tensors({"a": entry(shape=(8,), offsets=(0, 32)), "b": entry(shape=(4,), offsets=(48, 64))})
    yield "beyond the end", tensors({"a": entry(shape=(1000,), offsets=(0, 4000))})
    yield "backwards", tensors({"a": entry(offsets=(64, 0))})
    yield "negative offsets", tensors({"a": entry(offsets=(-64, 0))})
    yield "a negative size", tensors({"a": entry(shape=(-16,))})
    yield "a shape that lies", tensors({"a": entry(shape=(17,))})
    yield "2^62 by 8", tensors({"a": entry(shape=(2**62, 8))})
    yield "no shape", tensors({"a": {"dtype": "F32", "data_offsets": [0, 64]}})
    yield "an unknown type", tensors({"a": entry(dtype="OBJECT")})
    yield "a type that lies", tensors({"a": entry(dtype="F64")})
    yield "one name twice", tensors(b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2))
    yield "deep", tensors(b'{"a":' * 100_000)
    yield "other tensors", tensors({"a": entry()})


def spelled(document: object) -> bytes:
    """A manifest as the framework spells it."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def manifests(folder: Path, marker: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What may be wrong with a manifest whose own checksum is right, and with what lies under its names."""

    def stated(**changes: Any) -> Callable[[], object]:
        def write() -> None:
            document = json.loads((folder / "checkpoint.json").read_text()) | changes
            del document["sha256"]
            document["sha256"] = hashlib.sha256(spelled(document)).hexdigest()
            (folder / "checkpoint.json").write_bytes(spelled(document))

        return write

    files = read_manifest(folder).files
    anything = {"size": 7, "sha256": "0" * 64}
    for name in ("../../outside", "/etc/passwd", "a/b.c", "..", ".hidden", "a\nb.c", "con:x.y", ""):
        yield f"a file called {name!r}", stated(files=files | {name: anything})
    for size in (-1, 2**80, 1.5, "7", None, True):
        yield f"a size of {size!r}", stated(files=files | {"model.safetensors": {"size": size, "sha256": "0" * 64}})
    for step in (-1, "1", 1.5, None, [1]):
        yield f"a step of {step!r}", stated(step=step)
    yield "metrics in a list", stated(metrics={"a": [1]})
    yield "files left out", stated(files={name: value for name, value in files.items() if name != "recipe.yaml"})

    def in_place(make: Callable[[Path], object]) -> Callable[[], object]:
        def write() -> None:
            path = folder / "model.safetensors"
            path.unlink()
            make(path)

        return write

    outside = marker.with_name("outside.safetensors")
    outside.write_bytes((folder / "model.safetensors").read_bytes())
    yield "a link outside", in_place(lambda path: path.symlink_to(outside))
    yield "an endless device", in_place(lambda path: path.symlink_to("/dev/zero"))
    yield "a pipe", in_place(lambda path: os.mkfifo(path))
    yield "a folder", in_place(lambda path: path.mkdir())
    recipe = (folder / "recipe.yaml").read_text()
    for text in (
        "!!python/object/apply:os.system ['touch x']",
        recipe.replace("use: classify", f"use: '{marker}'"),
        recipe.replace("use: classify", "use: os.system"),
        recipe + "extends: ../../../../etc/passwd\n",
        "a: &a [1]\nb: [" + "*a, " * 10_000 + "]",
        "\xff\0",
    ):
        yield f"a recipe with {text[:20]!r}", lambda text=text: rewritten(folder, "recipe.yaml", text.encode())
    for lock in (b"[]", b"{" * 100_000, b"\xff", b'{"components": 3}'):
        yield f"a lock of {lock[:8]!r}", lambda lock=lock: rewritten(folder, "lock.json", lock)
    for manifest in (
        b"{" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"format": 1e999}',
        b"null",
        b'{"format": 2}',
        b"\xff",
    ):
        yield (
            f"a manifest of {manifest[:14]!r}",
            lambda content=manifest: (folder / "checkpoint.json").write_bytes(content),
        )


def uses(checkpoint: Path, run: Path) -> Iterator[Callable[[], object]]:
    """All that reads a checkpoint."""
    yield lambda: check_files(checkpoint)
    yield lambda: load_model(checkpoint)
    yield lambda: verify(checkpoint)
    yield lambda: resume(checkpoint, run=run)


def peak_memory() -> float:
    """The largest that this process has been so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_hundred_poisoned_artefacts(tmp_path: Path) -> None:
    """Each is refused by whatever needs the poisoned part; no marker, no file outside, no crash, no memory."""
    marker = tmp_path / "executed"
    train(small_recipe(tmp_path, "train.steps=1", "train.average=0.5"), tmp_path / "run", every=1)
    train(small_recipe(tmp_path, "train.steps=3", "train.average=0.5"), tmp_path / "good", every=1)
    good = tmp_path / "good" / "checkpoints" / "step-1"
    folder = tmp_path / "poisoned"
    artefacts: list[tuple[str, Callable[[], object]]] = []
    for number, (name, content) in enumerate(contents(marker)):
        for of in (TENSORS[0], TENSORS[1 + number % 3]):
            artefacts.append((f"{name} as {of}", lambda of=of, content=content: rewritten(folder, of, content)))
    shutil.copytree(good, folder)
    artefacts += manifests(folder, marker)
    assert len(artefacts) >= 100
    outside = sorted(path for path in tmp_path.rglob("*") if folder not in path.parents)
    peak = peak_memory()
    said: list[tuple[str, str]] = []
    for name, poison in artefacts:
        shutil.rmtree(folder)
        shutil.copytree(good, folder)
        poison()
        refused = 0
        for use in uses(folder, tmp_path / "resumed"):
            try:
                use()
            except NIError as error:
                refused += 1
                said.append((name, str(error)))
            shutil.rmtree(tmp_path / "resumed", ignore_errors=True)
        assert refused, name
        assert not marker.exists(), name
    assert sorted(path for path in tmp_path.rglob("*") if folder not in path.parents) == outside
    grown = peak_memory() - peak
    print(f"{len(artefacts)} artefacts, {len(said)} refusals; peak memory grew by {grown:.0f} MiB")
    assert [name for name, text in said if not 0 < len(text) < 2000] == []
    assert grown < MEMORY


@pytest.mark.parametrize("name", ["GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "BUILD"])
def test_the_poison_works(tmp_path: Path, name: str) -> None:
    """The streams do execute where somebody is careless; otherwise the test above would prove nothing."""
    import pickle

    marker = tmp_path / "executed"
    with contextlib.suppress(Exception):  # what comes after the execution does not matter
        pickle.loads(opcodes(marker)[name])
    assert marker.exists()
