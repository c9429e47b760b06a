"""The text of a recipe and its lines, read safely from any kind of path."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import attrs

from ni_framework.errors import Mark, Problem, RecipeError
from ni_framework.recipe.parsing.wording import quote_text

# A recipe has a few kilobytes; PyYAML needs about a second for each megabyte.
MAX_BYTES = 256 * 1024
MAX_LINE = 4096

# Line and paragraph separators (YAML 1.1 takes them for line ends, editors do not), byte-order marks, non-characters.
_INVISIBLE = frozenset({0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF})


@attrs.frozen
class Source:
    """A text with its name and its lines."""

    name: str
    text: str
    lines: Sequence[str]
    prefix: str = ""  # what precedes the text in its only line, such as `train.steps=` in an override
    numbered: bool = True

    def mark(self, line: int, column: int) -> Mark:
        """The place of a character by its line and column from 0; behind the end of the text, that of the last visible one."""
        if line >= len(self.lines) or (line == len(self.lines) - 1 and not self.lines[line].strip()):
            line = max((number for number, text in enumerate(self.lines) if text.strip()), default=0)
            column = len(self.lines[line].rstrip())
        return Mark(self.name, line + 1, column + len(self.prefix) + 1, self.prefix + self.lines[line], self.numbered)


def source_from_text(name: str, text: str) -> Source:
    """A source with a text of several lines; raises `RecipeError` for invisible characters and for very long lines."""
    source = Source(name, text, text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    for number, line in enumerate(source.lines):
        _check_line(source, number, line)
    return source


def source_from_override(argument: str, value: str) -> Source:
    """A source with the value of an override; its marks point into the whole argument. Raises as `source_from_text` does."""
    prefix = argument.removesuffix(value)
    source = Source(f"override {quote_text(argument)}", value, (value,), prefix, numbered=False)
    if "\n" in value or "\r" in value:
        raise RecipeError([Problem("an override must be one line", source.mark(0, 0))])
    _check_line(source, 0, value)
    return source


def _check_line(source: Source, number: int, line: str) -> None:
    if len(line) > MAX_LINE:
        message = f"this line has {len(line)} characters, and no more than {MAX_LINE} are allowed"
        raise RecipeError([Problem(message, source.mark(number, MAX_LINE), "break it inside a list or a mapping")])
    if line.isprintable():
        return
    for column, character in enumerate(line):
        code = ord(character)
        if (code < 32 and character != "\t") or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code in _INVISIBLE:
            message = f"the invisible character U+{code:04X} is not allowed in a recipe"
            raise RecipeError([Problem(message, source.mark(number, column), "remove it, or save the file as UTF-8")])


def read_bytes(path: str) -> bytes:
    """The content of a regular file that is small enough; raises `ValueError` with the reason otherwise."""
    try:
        # Opened without blocking: opening a FIFO would otherwise wait for a process that writes to it.
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
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KiB, too large for a recipe")
    return content


def decode(name: str, content: bytes) -> str:
    """The text of UTF-8 bytes, with or without a byte-order mark; raises `RecipeError` with the place of an invalid byte."""
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
