"""Metadata as they come: what is malformed is nobody else's affair."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.errors import PluginError
from ni_framework.registry import discover
from ni_framework.registry.resolve import component, forget


def announce(folder: Path, name: str, entry_points: bytes, called: str | None = None) -> None:
    metadata = folder / f"{name}-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {called or name}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_bytes(entry_points)


BODY = b"[ni_framework.body]\n"
MALFORMED = {
    "ni_no_value": BODY + b"swirl\n",
    "ni_no_utf8": BODY + b"# \xff\nswirl = a:B\n",
    "unrelated": b"[console_scripts]\n\xe9 = a:b\n",
    "ni_no_section": b"swirl = a:B\n[ni_framework.body\n",
}


@pytest.fixture
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    forget()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_metadata_stop_nobody(name: str, tmp_path: Path) -> None:
    announce(tmp_path, name, MALFORMED[name])
    forget()
    assert component("body", "lines_of_code").__name__ == "LinesOfCode"


@pytest.mark.usefixtures("_fresh")
def test_an_entry_without_a_value_cannot_be_loaded(tmp_path: Path) -> None:
    announce(tmp_path, "ni_odd", BODY + b"swirl\n", "ni-odd")
    forget()
    with pytest.raises(PluginError) as caught:
        component("body", "swirl")
    assert "body `swirl` of ni-odd 0.1 () cannot be imported: ValueError: the entry point is ''" in str(caught.value)


@pytest.mark.usefixtures("_fresh")
def test_what_the_format_allows_is_read(tmp_path: Path) -> None:
    """Extras, blanks, comments, and a name that is not the folder's."""
    text = b"# ours\n[ni_framework.body]\none = a.b : C [fast]\n; two\n\n[other]\nthree = x:y\n"
    announce(tmp_path, "odd_folder", text, "ni-Odd")
    assert [(entry.name, entry.value, entry.source) for entry in discover() if entry.distribution == "ni-Odd"] == [
        ("one", "a.b:C", "ni-Odd 0.1")
    ]
