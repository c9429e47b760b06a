"""Discovery of entry points: malformed metadata of one distribution do not affect the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.errors import PluginError
from ni_framework.registry.discover import discover
from ni_framework.registry.resolve import reset_registry, resolve_component


def write_metadata(folder: Path, name: str, entry_points: bytes, metadata_name: str | None = None) -> None:
    metadata = folder / f"{name}-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {metadata_name or name}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_bytes(entry_points)


BODY_GROUP = b"[ni_framework.body]\n"
MALFORMED = {
    "ni_no_value": BODY_GROUP + b"swirl\n",
    "ni_no_utf8": BODY_GROUP + b"# \xff\nswirl = a:B\n",
    "unrelated": b"[console_scripts]\n\xe9 = a:b\n",
    "ni_no_section": b"swirl = a:B\n[ni_framework.body\n",
}


@pytest.fixture
def _fresh_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    reset_registry()


@pytest.mark.usefixtures("_fresh_registry")
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_metadata_are_skipped(name: str, tmp_path: Path) -> None:
    write_metadata(tmp_path, name, MALFORMED[name])
    reset_registry()
    assert resolve_component("body", "lines_of_code").__name__ == "LinesOfCode"


@pytest.mark.usefixtures("_fresh_registry")
def test_an_entry_without_a_value_cannot_be_loaded(tmp_path: Path) -> None:
    write_metadata(tmp_path, "ni_odd", BODY_GROUP + b"swirl\n", "ni-odd")
    reset_registry()
    with pytest.raises(PluginError) as caught:
        resolve_component("body", "swirl")
    assert "body `swirl` of ni-odd 0.1 () cannot be imported: ValueError: the entry point is ''" in str(caught.value)


@pytest.mark.usefixtures("_fresh_registry")
def test_unusual_but_valid_metadata_are_read(tmp_path: Path) -> None:
    """Extras, spaces, comments, and a name that differs from the folder's."""
    text = b"# comment\n[ni_framework.body]\none = a.b : C [fast]\n; two\n\n[other]\nthree = x:y\n"
    write_metadata(tmp_path, "odd_folder", text, "ni-Odd")
    assert [(entry.name, entry.value, entry.source) for entry in discover() if entry.distribution == "ni-Odd"] == [
        ("one", "a.b:C", "ni-Odd 0.1")
    ]
