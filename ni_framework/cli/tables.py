"""Tables for people, for terminals of any width; `output.format_table` makes tables for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table

COLUMN_GAP = 2  # Spaces between columns


@frozen
class Grid:
    """A table. Its first columns are names, aligned left; the others are numbers, aligned right."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    num_name_columns: int = 1

    @property
    def widths(self) -> list[int]:
        """The width of each column, in characters."""
        return [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]


def render_blocks(blocks: Sequence[str | Grid]) -> str:
    """Renders lines of text and tables one below the other; on a terminal, no table is wider than it, and headings are bold.

    Columns that do not fit are printed in a further table below, which repeats the names. Nothing is cut off, wrapped or
    coloured.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    max_width = console.width if console.is_terminal else None
    # rich must not wrap anything: a terminal wraps long lines itself, and other programs want them in one piece.
    console.width = 1_000_000
    texts = []
    for block in blocks:
        if isinstance(block, str):
            texts.append(block)
            continue
        for grid in _split_grid(block, max_width):
            with console.capture() as capture:
                console.print(_rich_table(grid))
            texts.append("\n".join(line.rstrip() for line in capture.get().splitlines()))
    return "\n".join(texts)


def _split_grid(grid: Grid, max_width: int | None) -> Iterator[Grid]:
    """Splits the columns of a table over as many tables as needed to keep each within `max_width` characters."""
    widths = [width + COLUMN_GAP for width in grid.widths]
    name_width = sum(widths[: grid.num_name_columns])
    start = grid.num_name_columns
    while True:
        stop, used = start, name_width
        while stop < len(widths) and (
            stop == start or max_width is None or used + widths[stop] - COLUMN_GAP <= max_width
        ):
            used += widths[stop]
            stop += 1
        columns = [*range(grid.num_name_columns), *range(start, stop)]
        yield Grid(
            tuple(grid.header[column] for column in columns),
            [tuple(row[column] for column in columns) for row in grid.rows],
            grid.num_name_columns,
        )
        if stop == len(widths):
            return
        start = stop


def _rich_table(grid: Grid) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, COLUMN_GAP, 0, 0), header_style="bold")
    for number, name in enumerate(grid.header):
        table.add_column(name, justify="left" if number < grid.num_name_columns else "right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*row)
    return table
