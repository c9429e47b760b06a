"""`ni plot`: the path on stdout, and what is said where nothing can be drawn or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ni

NOW = "check the path, its permissions and the space left"


@pytest.fixture
def run(small: Path) -> Path:
    """A run of one line, in the folder to work in."""
    (small / "run").mkdir()
    (small / "run/metrics.jsonl").write_text('{"step": 1, "seconds": 1, "train/loss": 2.0}\n')
    return small / "run"


def test_it_writes_a_png_and_says_where(ni: Ni, run: Path) -> None:
    """In the run folder, or as asked; nothing else is left behind."""
    done = ni("plot", "run")
    assert (done.code, done.out, done.err) == (0, "run/plot.png\n", "")
    assert (run / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert ni("plot", "run", "run", "--output", "other.png", "--json").json == {"plot": "other.png"}
    assert Path("other.png").read_bytes() == (run / "plot.png").read_bytes(), "the same run twice is one run"
    assert sorted(entry.name for entry in run.iterdir()) == ["metrics.jsonl", "plot.png"]


def test_what_cannot_be_drawn_or_written(ni: Ni, run: Path) -> None:
    """Each is said in one line, of the file that was asked for."""
    (run.parent / "empty").mkdir()
    cases = {
        ("absent",): (2, "absent: there is no such run; name the folder of a run"),
        ("empty",): (2, "empty: holds no metrics.jsonl; name the folder of a run"),
        ("run", "--output", "no/a.png"): (1, f"no/a.png: No such file or directory; {NOW}"),
        ("run", "--output", "empty"): (1, f"empty: Is a directory; {NOW}"),
    }
    for arguments, (code, message) in cases.items():
        done = ni("plot", *arguments)
        assert (done.code, done.out, done.err) == (code, "", f"error: {message}\n")
    assert sorted(entry.name for entry in run.parent.iterdir()) == ["empty", "run", "small.yaml"]
