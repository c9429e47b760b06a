"""Tables on terminals of any width."""

from __future__ import annotations

import pytest

from ni_framework.cli.tables import Grid, rendered

GRID = Grid(("name", "a", "bb", "ccc"), [("first", "1", "22", "333"), ("x", "4444", "5", "[b]6[/b]")])


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if stdout were a terminal of 20 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "20")
    return monkeypatch


def test_elsewhere_a_table_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text, whatever COLUMNS says, for what reads it next."""
    monkeypatch.setenv("COLUMNS", "20")
    assert rendered(["a line", GRID]).splitlines() == [
        "a line",
        "name      a  bb       ccc",
        "first     1  22       333",
        "x      4444   5  [b]6[/b]",
    ]


def test_narrow_terminals_get_columns_below(terminal: pytest.MonkeyPatch) -> None:
    """With the names again; nothing is cut."""
    assert plain(rendered([GRID])) == [
        "name      a  bb",
        "first     1  22",
        "x      4444   5",
        "name        ccc",
        "first       333",
        "x      [b]6[/b]",
    ]
    terminal.setenv("COLUMNS", "3")
    assert len(plain(rendered([GRID]))) == 9, "one column at least, however narrow it is"
    terminal.setenv("COLUMNS", "25")
    assert len(plain(rendered([GRID]))) == 3
    terminal.setenv("COLUMNS", "24")
    assert len(plain(rendered([GRID]))) == 6


def test_headings_are_bold_and_nothing_has_a_colour(terminal: pytest.MonkeyPatch) -> None:
    """So that NO_COLOR finds nothing to take away."""
    text = rendered([GRID])
    assert "\x1b[1m" in text
    terminal.setenv("NO_COLOR", "1")
    assert rendered([GRID]) == text


def plain(text: str) -> list[str]:
    """The lines without what makes them bold."""
    return [line.rstrip() for line in text.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()]
