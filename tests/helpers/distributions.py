"""Distributions that are installed while a test runs: folders on the path, with metadata."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ni_framework.registry.resolve import reset_registry

InstallDistribution = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InstallDistribution]:
    """`install("ni_swirl", source, {"body": {"swirl": "ni_swirl:Swirl"}})` installs a distribution with one module."""
    modules: list[str] = []

    def install(
        name: str,
        source: str,
        entries: Mapping[str, Mapping[str, str]],
        *,
        module: str | None = None,
        version: str = "0.1",
    ) -> Path:
        folder = tmp_path / f"site-{name}"
        metadata = folder / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        )
        groups = [
            "\n".join([f"[ni_framework.{kind}]", *(f"{entry} = {value}" for entry, value in values.items())])
            for kind, values in entries.items()
        ]
        (metadata / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
        (folder / f"{module or name}.py").write_text(source)
        modules.append(module or name)
        monkeypatch.syspath_prepend(folder)
        reset_registry()
        return folder

    reset_registry()
    yield install
    for module in modules:
        sys.modules.pop(module, None)
    monkeypatch.undo()
    reset_registry()
