"""Distributions that are really installed, for as long as a test runs: a folder on the path, with metadata of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ni_framework.registry.resolve import forget

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
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
            "\n".join([f"[ni_framework.{kind}]", *(f"{entry} = {value}" for entry, value in named.items())])
            for kind, named in entries.items()
        ]
        (metadata / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
        (folder / f"{module or name}.py").write_text(source)
        modules.append(module or name)
        monkeypatch.syspath_prepend(folder)
        forget()
        return folder

    forget()
    yield install
    for module in modules:
        sys.modules.pop(module, None)
    monkeypatch.undo()
    forget()
