"""Tables that people read on a terminal of any width; `output.table` is the one to `cut`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table

GAP = 2  # blanks between columns


@frozen
class Grid:
    """A table: its first columns hold names and are aligned left, the others hold numbers."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    names: int = 1

    @property
    def widths(self) -> list[int]:
        """Of the columns."""
        return [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]


def rendered(parts: Sequence[str | Grid]) -> str:
    """Lines and tables below one another, with headings in bold and no table wider than the terminal, if it is one.

    What does not fit beside the names stands below, with the names again. Nothing is cut off, wrapped or coloured.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    room = console.width if console.is_terminal else None
    console.width = 1_000_000  # lines are as long as they are; the terminal wraps what is one long word
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        for piece in _pieces(part, room):
            with console.capture() as caught:
                console.print(_table(piece))
            texts.append("\n".join(line.rstrip() for line in caught.get().splitlines()))
    return "\n".join(texts)


def _pieces(grid: Grid, room: int | None) -> Iterator[Grid]:
    """The columns of a table in as many tables as it takes to fit into so many characters."""
    widths = [width + GAP for width in grid.widths]
    lead = sum(widths[: grid.names])
    start = grid.names
    while True:
        stop, used = start, lead
        while stop < len(widths) and (stop == start or room is None or used + widths[stop] - GAP <= room):
            used += widths[stop]
            stop += 1
        columns = [*range(grid.names), *range(start, stop)]
        yield Grid(
            tuple(grid.header[column] for column in columns),
            [tuple(row[column] for column in columns) for row in grid.rows],
            grid.names,
        )
        if stop == len(widths):
            return
        start = stop


def _table(grid: Grid) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for number, name in enumerate(grid.header):
        table.add_column(name, justify="left" if number < grid.names else "right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*row)
    return table
