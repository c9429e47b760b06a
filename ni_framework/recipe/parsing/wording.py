"""How values and suggestions are written, the same in every message."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from ni_framework.recipe.parsing.nodes import BrokenNode, ListNode, Node, ScalarNode

# The characters of a value that a message shows.
_MAX_VALUE_CHARS = 80
# A longer word is not a misspelt key, and comparing it would take long.
_MAX_SUGGESTED_CHARS = 64


def escape_unprintable(text: str) -> str:
    """The text with every character that a terminal would not show written as an escape."""
    return "".join(character if character.isprintable() else _escape_sequence(character) for character in text)


def describe_node(node: Node) -> str:
    """A value as messages show it: text in quotes, numbers as written, collections by their kind."""
    if not isinstance(node, ScalarNode):
        return "a value" if isinstance(node, BrokenNode) else "a list" if isinstance(node, ListNode) else "a mapping"
    if isinstance(node.value, str):
        return quote_text(node.value)
    return escape_unprintable(shorten(node.text)) or "nothing"


def quote_text(text: str) -> str:
    """A text in quotes, on one line and not too long."""
    return f"'{escape_unprintable(shorten(text))}'"


def short_error_text(error: Exception) -> str:
    """The message of an error from other code, on one line and not too long."""
    return escape_unprintable(str(error)[:200]) or type(error).__name__


def shorten(text: str) -> str:
    """The beginning of a text that is too long for a message."""
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def suggest_word(word: str, known: Collection[str]) -> str | None:
    """A hint with the known word closest to an unknown one; None if there is no close word."""
    close = closest_word(word, known)
    return f"did you mean `{close}`?" if close else None


def closest_word(word: str, known: Collection[str]) -> str | None:
    """The known word closest to an unknown one; None if there is no close word."""
    if len(word) > _MAX_SUGGESTED_CHARS:
        return None
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    if not close:
        # A short word can differ in nothing but its case or a `-` for `_`, and still not count as close.
        close = [name for name in known if name == word.lower().replace("-", "_")]
    return close[0] if close else None


def join_with_or(words: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def join_backquoted(words: Iterable[str]) -> str:
    """Words in backquotes, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


def _escape_sequence(character: str) -> str:
    code = ord(character)
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return named.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
