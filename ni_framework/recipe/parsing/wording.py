"""How values and suggestions are put into words, the same in every message."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from ni_framework.recipe.parsing.nodes import BrokenNode, ListNode, Node, ScalarNode

_SHOWN = 80  # characters of a value that a message shows
_SUGGESTED = 64  # a longer word is no slip of the finger, and comparing it would take long


def printable(text: str) -> str:
    """The text with every character that a terminal would not show written as an escape."""
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def shown(node: Node) -> str:
    """A value as a message names it: text in quotes, numbers as written, collections by their kind."""
    if not isinstance(node, ScalarNode):
        return "a value" if isinstance(node, BrokenNode) else "a list" if isinstance(node, ListNode) else "a mapping"
    if isinstance(node.value, str):
        return quoted(node.value)
    return printable(shortened(node.text)) or "nothing"


def quoted(text: str) -> str:
    """A text in quotes, on one line and not too long."""
    return f"'{printable(shortened(text))}'"


def said(error: Exception) -> str:
    """What an error of somebody else's code says, on one line and not too long."""
    return printable(str(error)[:200]) or type(error).__name__


def shortened(text: str) -> str:
    """The beginning of a text that is too long for a message."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def suggestion(word: str, known: Collection[str]) -> str | None:
    """A hint that names the known word closest to one that is not known, None where none is close."""
    close = closest(word, known)
    return f"did you mean `{close}`?" if close else None


def closest(word: str, known: Collection[str]) -> str | None:
    """The known word closest to one that is not known, None where none is close."""
    if len(word) > _SUGGESTED:
        return None
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    if not close:  # a wrong case or `-` for `_` can be all that differs in a short word
        close = [name for name in known if name == word.lower().replace("-", "_")]
    return close[0] if close else None


def either(words: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def listed(words: Iterable[str]) -> str:
    """Words in code quotes, divided by commas."""
    return ", ".join(f"`{word}`" for word in words)


def _escape(character: str) -> str:
    code = ord(character)
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return named.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
