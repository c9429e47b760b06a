"""The lockfile: which code, versions, options and data a run was made with."""

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
from ni_framework.data.batch import map_tensors
from ni_framework.options import ComponentSpec
from ni_framework.recipe import Recipe, to_plain_values
from ni_framework.recipe.schema import ScriptConfig
from ni_framework.registry import Entry, installed_catalog
from ni_framework.registry.resolve import resolve_component
from ni_framework.utils.atomic_files import sha256_hex

# The longest name that is read from a lockfile, in characters.
_MAX_RECORD_CHARS = 200
_COMPONENT_KEYS = ("component", "distribution", "version")
# Environment variables that change numbers or code, and those among them that may differ between ranks.
SHARED_ENV_PREFIXES = ("NI_", "OMP_NUM_THREADS", "TORCH_", "CUBLAS_", "NVIDIA_TF32_OVERRIDE", "DS_")
PER_PROCESS_ENV = ("NI_ERROR_DIR", "NI_DEBUG", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
# How many samples of each split its fingerprint reads.
FINGERPRINT_SAMPLES = 64


def build_lockfile(recipe: Recipe, splits: Mapping[str, Split] | None) -> dict[str, Any]:
    """Returns versions, seed, every component that the recipe uses, and the fingerprint of the data.

    The checksum of a plugin's source covers its whole package, because a change in a helper must be noticed. A built-in
    component is identified by the file of its class and by the framework's version.

    Args:
        recipe: The recipe of the run.
        splits: The opened data; None omits its fingerprint.
    """
    lockfile: dict[str, Any] = {
        "framework": __version__,
        "torch": torch.__version__,
        "deepspeed": _installed_version("deepspeed"),
        "python": platform.python_version(),
        "seed": recipe.seed,
        "components": {path: _component_record(kind, choice) for path, kind, choice in _iter_components(recipe)},
    }
    if splits is not None:
        lockfile["data"] = {part: data_fingerprint(split) for part, split in splits.items()}
    return lockfile


def collect_environment(recipe: Recipe, splits: Mapping[str, Split], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that must be the same on every rank of a run, by name.

    Args:
        recipe: The recipe of the run.
        splits: The opened data.
        parameters: The model's parameters, by name, in plain values.
    """
    package = Path(__file__).parents[1]
    sources = (
        f"{path.relative_to(package)} {sha256_hex(path.read_bytes())}\n" for path in sorted(package.rglob("*.py"))
    )
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(SHARED_ENV_PREFIXES) and name not in PER_PROCESS_ENV
    }
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    document = {
        "recipe": to_plain_values(recipe),
        "lock": build_lockfile(recipe, splits),
        "code": sha256_hex("".join(sources).encode()),
        "parameter": parameters,
        "environment": variables | {"GPU": cuda, "byte order": sys.byteorder},
    }
    return dict(flatten(document))


def data_fingerprint(split: Split) -> dict[str, Any]:
    """Returns the number of samples, and a checksum over 64 of them, evenly spread and not augmented."""
    index_B = (
        torch.linspace(0, len(split) - 1, min(FINGERPRINT_SAMPLES, len(split)), dtype=torch.float64).round().long()
    )
    contents: list[bytes] = []

    def record(tensor: Tensor) -> Tensor:
        contents.append(f"{tensor.dtype}{list(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        return tensor

    map_tensors(split.batch(index_B, None), record)
    return {"samples": len(split), "sha256": sha256_hex(b"".join(contents))}


def _installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def compare_lockfiles(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns one message for each key that differs between two lockfiles."""
    old, new = dict(flatten(before)), dict(flatten(now))
    return [
        f"{key}: was {_abbreviate(old.get(key))}, is {_abbreviate(new.get(key))}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key)
    ]


def _iter_components(recipe: Recipe) -> Iterator[tuple[str, str, ComponentSpec]]:
    """Yields every component that a recipe uses: its key path, its kind, and its name with its options."""
    script_fields = [field.name for field in attrs.fields(ScriptConfig)]
    for field in attrs.fields(type(recipe.model)):
        if field.name == "scripts" and isinstance(recipe.model.scripts, tuple):
            for number, script in enumerate(recipe.model.scripts):
                yield from _iter_nested_components(script, f"model.scripts.{number}")
        elif field.name not in script_fields or not isinstance(recipe.model.scripts, tuple):
            yield from _iter_field_components(field, getattr(recipe.model, field.name), "model")
    yield from _iter_field_components(attrs.fields(Recipe).data, recipe.data, "")


def _iter_nested_components(values: Any, path: str) -> Iterator[tuple[str, str, ComponentSpec]]:
    for field in attrs.fields(type(values)):
        yield from _iter_field_components(field, getattr(values, field.name), path)


def _iter_field_components(
    field: attrs.Attribute[Any], value: Any, path: str
) -> Iterator[tuple[str, str, ComponentSpec]]:
    field_path = f"{path}.{field.name}" if path else field.name
    by_name = {str(n): item for n, item in enumerate(value)} if isinstance(value, tuple) else value
    items = by_name.items() if isinstance(by_name, Mapping) else [(None, by_name)]
    for name, item in items:
        item_path = field_path if name is None else f"{field_path}.{name}"
        if isinstance(item, ComponentSpec):
            yield item_path, field.metadata["kind"], item
            yield from _iter_nested_components(item.options, item_path)
        elif isinstance(value, tuple) and attrs.has(type(item)):
            yield from _iter_nested_components(item, item_path)


def _component_record(kind: str, spec: ComponentSpec) -> dict[str, Any]:
    entry, cls = installed_catalog().find(kind, spec.use), resolve_component(kind, spec.use)
    return {
        "component": f"{kind}/{spec.use}",
        "entry_point": entry.value,
        "distribution": entry.distribution,
        "version": entry.version,
        "api": cls.api,
        "source_sha256": source_sha256(entry),
        "options": to_plain_values(spec.options),
    }


def source_sha256(entry: Entry) -> str | None:
    """Returns the SHA-256 of a component's source; None if there is no source file. See `build_lockfile`."""
    cls = resolve_component(entry.kind, entry.name)
    files = _module_file(cls.__module__) if entry.is_builtin else _plugin_source_files(entry)
    if len(files) == 1:
        return sha256_hex(files[0].read_bytes())
    lines = (f"{os.path.relpath(path, files[0].parent)} {sha256_hex(path.read_bytes())}\n" for path in files)
    return sha256_hex("".join(lines).encode()) if files else None


def _plugin_source_files(entry: Entry) -> list[Path]:
    """Returns the source files of a plugin: those of the component's package, then all others of its distribution."""
    files = _package_source_files(entry.module)
    try:
        recorded = metadata.distribution(entry.distribution).files or []
    except metadata.PackageNotFoundError:
        # The plugin is a single file that is not installed.
        recorded = []
    others = sorted({Path(str(file.locate())) for file in recorded if file.suffix == ".py"} - {*files})
    return files + [path for path in others if path.is_file()]


def _module_file(module: str) -> list[Path]:
    file = getattr(sys.modules.get(module), "__file__", None)
    return [Path(file)] if file else []


def _package_source_files(module: str) -> list[Path]:
    """Returns all source files of a module's outermost regular package, its `__init__.py` first.

    A namespace package is skipped, because several distributions may share it.
    """
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        if files := _module_file(".".join(parts[:number])):
            path = files[0]
            package_files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else []
            return [path, *(other for other in package_files if other != path)]
    return []


@frozen
class LockedComponent:
    """The record of a component in a lockfile."""

    kind: str
    name: str
    distribution: str
    version: str
    # The hexadecimal SHA-256 of its source; None if it had no source file.
    sha256: Any

    @property
    def origin(self) -> str:
        """The distribution and version of the component, for messages."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def label(self) -> str:
        """The kind and name of the component, for messages."""
        return f"{self.kind} `{self.name}`"


def locked_components(lockfile: Mapping[str, Any]) -> dict[str, LockedComponent]:
    """Returns the components in a lockfile, by their key paths.

    Records that do not look as `build_lockfile` writes them are skipped, because their texts appear in messages and in
    commands for pip.
    """
    result: dict[str, LockedComponent] = {}
    components = lockfile.get("components")
    for path, record in components.items() if isinstance(components, Mapping) else ():
        values = [str(record.get(key)) for key in _COMPONENT_KEYS] if isinstance(record, Mapping) else []
        if values and all(text.isprintable() and len(text) <= _MAX_RECORD_CHARS for text in (path, *values)):
            kind, _, name = values[0].partition("/")
            result[path] = LockedComponent(kind, name, values[1], values[2], record.get("source_sha256"))
    return result


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of a document of nested mappings by key path; items of a list of mappings have their index as key."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _abbreviate(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
