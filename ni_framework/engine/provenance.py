"""The lock: which code, versions, options and data a run was made with."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ni_framework import __version__
from ni_framework.contracts import Split
from ni_framework.engine.batches import each
from ni_framework.engine.files import digest
from ni_framework.options import Choice
from ni_framework.recipe import Recipe, plain_values
from ni_framework.recipe.schema import Script
from ni_framework.registry import installed
from ni_framework.registry.resolve import component

SAMPLES = 64  # of each part of the data that its fingerprint reads


def lock_of(recipe: Recipe, splits: Mapping[str, Split] | None) -> dict[str, Any]:
    """Versions, seed, every component that the recipe uses, and the fingerprint of the data (None: not looked at).

    A component's source is the file that holds its class; what that file imports is told by the version alone.
    """
    lock: dict[str, Any] = {
        "framework": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": recipe.seed,
        "components": {path: _provenance(kind, choice) for path, kind, choice in _choices(recipe)},
    }
    if splits is not None:
        lock["data"] = {part: fingerprint(split) for part, split in splits.items()}
    return lock


def fingerprint(split: Split) -> dict[str, Any]:
    """The number of samples, and a checksum over 64 of them, evenly spread and not augmented."""
    index_B = torch.linspace(0, len(split) - 1, min(SAMPLES, len(split)), dtype=torch.float64).round().long()
    contents: list[bytes] = []

    def note(tensor: Tensor) -> Tensor:
        contents.append(f"{tensor.dtype}{list(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        return tensor

    each(split.batch(index_B, None), note)
    return {"samples": len(split), "sha256": digest(b"".join(contents))}


def lock_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two locks, in words, each with its place."""
    old, new = dict(_flat(before)), dict(_flat(now))
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
    items = value.items() if isinstance(value, Mapping) else [(None, value)]
    for name, item in items:
        if isinstance(item, Choice):
            where = here if name is None else f"{here}.{name}"
            yield where, field.metadata["kind"], item
            yield from _inside(item.options, where)


def _provenance(kind: str, choice: Choice) -> dict[str, Any]:
    entry, cls = installed().find(kind, choice.use), component(kind, choice.use)
    source = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return {
        "component": f"{kind}/{choice.use}",
        "entry_point": entry.value,
        "distribution": entry.distribution,
        "version": entry.version,
        "api": cls.api,
        "source_sha256": digest(Path(source).read_bytes()) if source else None,
        "options": plain_values(choice.options),
    }


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
