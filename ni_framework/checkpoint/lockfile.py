"""The lock: which code, versions, options and data a run was made with."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from ni_framework._version import __version__
from ni_framework.contracts import Split
from ni_framework.data.batch import each
from ni_framework.options import Choice
from ni_framework.recipe import Recipe, plain_values
from ni_framework.recipe.schema import Script
from ni_framework.registry import Entry, installed
from ni_framework.registry.resolve import component
from ni_framework.utils.atomic_files import digest

_LONGEST = 200  # of a name in a lock
_TOLD = ("component", "distribution", "version")
# Variables of the environment that change numbers or code, and those among them that are each process's own.
ALIKE = ("NI_", "OMP_NUM_THREADS", "TORCH_", "CUBLAS_", "NVIDIA_TF32_OVERRIDE", "DS_")
OWN = ("NI_NOTES", "NI_DEBUG", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
SAMPLES = 64  # of each part of the data that its fingerprint reads


def lock_of(recipe: Recipe, splits: Mapping[str, Split] | None) -> dict[str, Any]:
    """Versions, seed, every component that the recipe uses, and the fingerprint of the data (None: not looked at).

    A plugin's source is all of its package, for a helper that changes must be noticed. The framework's own components are
    told by the file that holds the class, and by the framework's version.
    """
    lock: dict[str, Any] = {
        "framework": __version__,
        "torch": torch.__version__,
        "deepspeed": _version("deepspeed"),
        "python": platform.python_version(),
        "seed": recipe.seed,
        "components": {path: _provenance(kind, choice) for path, kind, choice in _choices(recipe)},
    }
    if splits is not None:
        lock["data"] = {part: fingerprint(split) for part, split in splits.items()}
    return lock


def facts(recipe: Recipe, splits: Mapping[str, Split], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """All that processes which train together must have alike, by name: recipe, code, versions, data, parameters, environment."""
    here = Path(__file__).parents[1]
    sources = (f"{path.relative_to(here)} {digest(path.read_bytes())}\n" for path in sorted(here.rglob("*.py")))
    variables = {name: value for name, value in os.environ.items() if name.startswith(ALIKE) and name not in OWN}
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    told = {
        "recipe": plain_values(recipe),
        "lock": lock_of(recipe, splits),
        "code": digest("".join(sources).encode()),
        "parameter": parameters,
        "environment": variables | {"GPU": cuda, "byte order": sys.byteorder},
    }
    return dict(flat(told))


def fingerprint(split: Split) -> dict[str, Any]:
    """The number of samples, and a checksum over 64 of them, evenly spread and not augmented."""
    index_B = torch.linspace(0, len(split) - 1, min(SAMPLES, len(split)), dtype=torch.float64).round().long()
    contents: list[bytes] = []

    def note(tensor: Tensor) -> Tensor:
        contents.append(f"{tensor.dtype}{list(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        return tensor

    each(split.batch(index_B, None), note)
    return {"samples": len(split), "sha256": digest(b"".join(contents))}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def lock_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two locks, in words, each with its place."""
    old, new = dict(flat(before)), dict(flat(now))
    return [
        f"{key}: was {_short(old.get(key))}, is {_short(new.get(key))}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key)
    ]


def _choices(recipe: Recipe) -> Iterator[tuple[str, str, Choice]]:
    """Every component that a recipe uses: its key path, kind and choice."""
    of_scripts = [field.name for field in attrs.fields(Script)]
    for field in attrs.fields(type(recipe.model)):
        if field.name == "scripts" and isinstance(recipe.model.scripts, tuple):
            for number, script in enumerate(recipe.model.scripts):
                yield from _inside(script, f"model.scripts.{number}")
        elif field.name not in of_scripts or not isinstance(recipe.model.scripts, tuple):
            yield from _of_field(field, getattr(recipe.model, field.name), "model")
    yield from _of_field(attrs.fields(Recipe).data, recipe.data, "")


def _inside(values: Any, path: str) -> Iterator[tuple[str, str, Choice]]:
    for field in attrs.fields(type(values)):
        yield from _of_field(field, getattr(values, field.name), path)


def _of_field(field: attrs.Attribute[Any], value: Any, path: str) -> Iterator[tuple[str, str, Choice]]:
    here = f"{path}.{field.name}" if path else field.name
    named = {str(n): item for n, item in enumerate(value)} if isinstance(value, tuple) else value
    items = named.items() if isinstance(named, Mapping) else [(None, named)]
    for name, item in items:
        where = here if name is None else f"{here}.{name}"
        if isinstance(item, Choice):
            yield where, field.metadata["kind"], item
            yield from _inside(item.options, where)
        elif isinstance(value, tuple) and attrs.has(type(item)):
            yield from _inside(item, where)


def _provenance(kind: str, choice: Choice) -> dict[str, Any]:
    entry, cls = installed().find(kind, choice.use), component(kind, choice.use)
    return {
        "component": f"{kind}/{choice.use}",
        "entry_point": entry.value,
        "distribution": entry.distribution,
        "version": entry.version,
        "api": cls.api,
        "source_sha256": source_digest(entry),
        "options": plain_values(choice.options),
    }


def source_digest(entry: Entry) -> str | None:
    """The checksum of a component's source; None if it has none. See `lock_of`."""
    cls = component(entry.kind, entry.name)
    files = _file_of(cls.__module__) if entry.is_own else _files_of(entry)
    if len(files) == 1:
        return digest(files[0].read_bytes())
    listed = (f"{os.path.relpath(path, files[0].parent)} {digest(path.read_bytes())}\n" for path in files)
    return digest("".join(listed).encode()) if files else None


def _files_of(entry: Entry) -> list[Path]:
    """The source files of a plugin: those of the component's package, and what else its distribution has installed."""
    files = _package_of(entry.module)
    try:
        recorded = metadata.distribution(entry.distribution).files or []
    except metadata.PackageNotFoundError:  # a plugin of one file
        recorded = []
    others = sorted({Path(str(file.locate())) for file in recorded if file.suffix == ".py"} - {*files})
    return files + [path for path in others if path.is_file()]


def _file_of(module: str) -> list[Path]:
    file = getattr(sys.modules.get(module), "__file__", None)
    return [Path(file)] if file else []


def _package_of(module: str) -> list[Path]:
    """All source files of a module's outermost package, its `__init__.py` first; a namespace shared by several is none."""
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        if files := _file_of(".".join(parts[:number])):
            path = files[0]
            whole = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else []
            return [path, *(other for other in whole if other != path)]
    return []


@frozen
class Locked:
    """What a lock says of a component."""

    kind: str
    name: str
    distribution: str
    version: str
    sha256: Any  # of its source, as text; None if it had none

    @property
    def origin(self) -> str:
        """The distribution and version that it came from, as errors name them."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.kind} `{self.name}`"


def locked(lock: Mapping[str, Any]) -> dict[str, Locked]:
    """The components in a lock, by their key paths.

    What is not as `lock_of` writes it is passed over: the words of a checkpoint are shown to people, and given to pip.
    """
    found: dict[str, Locked] = {}
    components = lock.get("components")
    for path, record in components.items() if isinstance(components, Mapping) else ():
        told = [str(record.get(key)) for key in _TOLD] if isinstance(record, Mapping) else []
        if told and all(text.isprintable() and len(text) <= _LONGEST for text in (path, *told)):
            kind, _, name = told[0].partition("/")
            found[path] = Locked(kind, name, told[1], told[2], record.get("source_sha256"))
    return found


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What a document of mappings holds, by key paths; items of lists of mappings by their numbers."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flat(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
