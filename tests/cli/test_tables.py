"""Tables for people, on terminals of any width."""

from __future__ import annotations

import pytest

from ni_framework.cli.tables import Grid, render_blocks

GRID = Grid(("name", "a", "bb", "ccc"), [("first", "1", "22", "333"), ("x", "4444", "5", "[b]6[/b]")])


@pytest.fixture
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Makes stdout look like a terminal with 20 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "20")
    return monkeypatch


def test_table_without_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal the output is plain text for programs, and COLUMNS is ignored."""
    monkeypatch.setenv("COLUMNS", "20")
    assert render_blocks(["a line", GRID]).splitlines() == [
        "a line",
        "name      a  bb       ccc",
        "first     1  22       333",
        "x      4444   5  [b]6[/b]",
    ]


def test_table_on_narrow_terminal(narrow_terminal: pytest.MonkeyPatch) -> None:
    """Columns that do not fit are in a further table, with the names; nothing is cut off."""
    assert strip_bold(render_blocks([GRID])) == [
        "name      a  bb",
        "first     1  22",
        "x      4444   5",
        "name        ccc",
        "first       333",
        "x      [b]6[/b]",
    ]
    narrow_terminal.setenv("COLUMNS", "3")
    assert len(strip_bold(render_blocks([GRID]))) == 9, (
        "each table has one column at least, however narrow the terminal is"
    )
    narrow_terminal.setenv("COLUMNS", "25")
    assert len(strip_bold(render_blocks([GRID]))) == 3
    narrow_terminal.setenv("COLUMNS", "24")
    assert len(strip_bold(render_blocks([GRID]))) == 6


def test_headings_are_bold_without_colours(narrow_terminal: pytest.MonkeyPatch) -> None:
    """Headings are bold and there are no colours, so NO_COLOR changes nothing."""
    text = render_blocks([GRID])
    assert "\x1b[1m" in text
    narrow_terminal.setenv("NO_COLOR", "1")
    assert render_blocks([GRID]) == text


def strip_bold(text: str) -> list[str]:
    """Returns the lines without the control sequences of bold text."""
    return [line.rstrip() for line in text.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()]
