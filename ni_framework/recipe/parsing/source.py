"""The text of a recipe and its lines: read with care from whatever a path leads to."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import attrs

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.wording import quoted

MAX_BYTES = 256 * 1024  # a recipe has a few kilobytes; PyYAML needs about a second for each megabyte
MAX_LINE = 4096

# Line and paragraph separators (line ends to YAML 1.1, not to editors), byte-order marks, non-characters.
_INVISIBLE = frozenset({0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF})


@attrs.frozen
class Source:
    """A text with a name, which knows what its lines look like."""

    name: str
    text: str
    lines: Sequence[str]
    before: str = ""  # what stands before the text in its only line, as `train.steps=` does in an override
    numbered: bool = True

    def mark(self, line: int, column: int) -> Mark:
        """The place of a character, counted from 0; behind the end of the text stands its last visible one."""
        if line >= len(self.lines) or (line == len(self.lines) - 1 and not self.lines[line].strip()):
            line = max((number for number, text in enumerate(self.lines) if text.strip()), default=0)
            column = len(self.lines[line].rstrip())
        return Mark(self.name, line + 1, column + len(self.before) + 1, self.before + self.lines[line], self.numbered)


def from_text(name: str, text: str) -> Source:
    """A source with a text of several lines; raises `RecipeError` for what no editor shows and for endless lines."""
    source = Source(name, text, text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    for number, line in enumerate(source.lines):
        _check_line(source, number, line)
    return source


def from_override(argument: str, value: str) -> Source:
    """The value of an override, whose marks point into the whole argument; raises as `from_text` does."""
    before = argument.removesuffix(value)
    source = Source(f"override {quoted(argument)}", value, (value,), before, numbered=False)
    if "\n" in value or "\r" in value:
        raise RecipeError([Problem("an override is one line", source.mark(0, 0))])
    _check_line(source, 0, value)
    return source


def _check_line(source: Source, number: int, line: str) -> None:
    if len(line) > MAX_LINE:
        message = f"a line of {len(line)} characters, and no more than {MAX_LINE} are read"
        raise RecipeError([Problem(message, source.mark(number, MAX_LINE), "break it inside of a list or a mapping")])
    if line.isprintable():
        return
    for column, character in enumerate(line):
        code = ord(character)
        if (code < 32 and character != "\t") or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code in _INVISIBLE:
            message = f"the invisible character U+{code:04X} cannot stand in a recipe"
            raise RecipeError([Problem(message, source.mark(number, column), "remove it, or save the file as UTF-8")])


def read_bytes(path: str) -> bytes:
    """The content of a regular file that is small enough; raises `ValueError` with what is wrong otherwise."""
    try:
        # Without blocking: to open a FIFO otherwise is to wait for whoever writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError("is a folder, not a file" if stat.S_ISDIR(mode) else "is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({(error.strerror or 'unknown reason').lower()})") from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KiB, which no recipe is")
    return content


def decode(name: str, content: bytes) -> str:
    """The text in UTF-8, with or without a byte-order mark; raises `RecipeError` with the place of what is not."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError([Problem("the text is UTF-16, not UTF-8", Mark(name, 1, 1, ""), "save the file as UTF-8")])
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode().replace("\r\n", "\n").replace("\r", "\n")
        text = before.rpartition("\n")[2]
        rest = content[error.start :].replace(b"\r", b"\n").partition(b"\n")[0].decode(errors="replace")
        mark = Mark(name, before.count("\n") + 1, len(text) + 1, (text + rest)[:MAX_LINE])
        message = f"the byte 0x{content[error.start]:02x} is not UTF-8"
        raise RecipeError([Problem(message, mark, "save the file as UTF-8")]) from None
