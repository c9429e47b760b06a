"""`ni plot`: the path on stdout, and errors if nothing can be plotted or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import RunNi

WRITE_HINT = "check the path, its permissions and the space left"


@pytest.fixture
def run(small_recipe_dir: Path) -> Path:
    """Makes a run with one line of metrics in the working folder."""
    (small_recipe_dir / "run").mkdir()
    (small_recipe_dir / "run/metrics.jsonl").write_text('{"step": 1, "seconds": 1, "train/loss": 2.0}\n')
    return small_recipe_dir / "run"


def test_writes_png_and_prints_path(ni: RunNi, run: Path) -> None:
    """The file is written to the run folder or to --output, and nothing else is."""
    result = ni("plot", "run")
    assert (result.code, result.out, result.err) == (0, "run/plot.png\n", "")
    assert (run / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert ni("plot", "run", "run", "--output", "other.png", "--json").json == {"plot": "other.png"}
    assert Path("other.png").read_bytes() == (run / "plot.png").read_bytes(), "the same run given twice is plotted once"
    assert sorted(entry.name for entry in run.iterdir()) == ["metrics.jsonl", "plot.png"]


def test_plot_errors(ni: RunNi, run: Path) -> None:
    """Each error is one line that names the requested file."""
    (run.parent / "empty").mkdir()
    cases = {
        ("absent",): (2, "absent: there is no such folder; name a run folder"),
        ("empty",): (2, "empty: contains no metrics.jsonl; name a run folder"),
        ("run", "--output", "no/a.png"): (1, f"no/a.png: No such file or directory; {WRITE_HINT}"),
        ("run", "--output", "empty"): (1, f"empty: Is a directory; {WRITE_HINT}"),
    }
    for arguments, (code, message) in cases.items():
        result = ni("plot", *arguments)
        assert (result.code, result.out, result.err) == (code, "", f"error: {message}\n")
    assert sorted(entry.name for entry in run.parent.iterdir()) == ["empty", "run", "small.yaml"]
