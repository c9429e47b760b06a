"""PyYAML's scanner and parser without what builds objects, and its complaints in words that a person understands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from ni_framework.errors import Problem, RecipeError
from ni_framework.recipe.parsing.source import Source

_QUOTES = "put text that holds special characters in quotes"
_INDENT = "keys of one mapping start in one column; text that holds `: ` needs quotes"

# What PyYAML says -> what we say, whether the place where the broken thing began tells more, and what to do.
_WORDS: tuple[tuple[str, str, bool, str | None], ...] = (
    (r"character '\\t' that cannot start", "a tab cannot stand here", False, "indent and separate with spaces"),
    (r"character ('.+') that cannot start", r"a value cannot begin with \1", False, _QUOTES),
    (r"could not find expected ':'", "this line is no `key: value`", True, "a key is followed by `:` and a space"),
    (r"mapping values are not allowed", "a `:` cannot stand here", False, _INDENT),
    (r"mapping keys are not allowed", "a `?` cannot stand here", False, _QUOTES),
    (r"sequence entries are not allowed", "a list item `- ` cannot stand here", False, "start it on a line of its own"),
    (r"unexpected (end of stream|document)", "this quote is never closed", True, "close it with the same quote"),
    (
        r"unknown escape character",
        "an unknown escape in text",
        False,
        "write `\\\\` for a backslash, or use single quotes",
    ),
    (
        r"expected escape sequence",
        "an incomplete escape in text",
        False,
        "`\\x` takes 2, `\\u` 4, `\\U` 8 hexadecimal digits",
    ),
    (r"indentation indicator|comment or a line break", "a block of text begins with `|` or `>` alone", True, _QUOTES),
    (r"expected ',' or '\]'", "the list that begins here lacks a `,` or its `]`", True, None),
    (r"expected ',' or '\}'", "the mapping that begins here lacks a `,` or its `}`", True, None),
    (
        r"expected the node content, but found '<(stream|document)",
        "the text ends where a value should stand",
        False,
        "close every `[` and `{`",
    ),
    (r"expected the node content", "a value is missing here", False, None),
    (r"expected <block end>", "this does not fit the lines above it", False, _INDENT),
    (r"expected '<document start>'", "nothing can stand here after the end of the recipe", False, _INDENT),
    (r"tag|URI", "tags (`!`) are not used in recipes", False, _QUOTES),
)


class Events(Reader, Scanner, Parser):
    """The events of one text. There is no composer and no constructor: nothing in a recipe can become an object."""

    def __init__(self, source: Source) -> None:
        Reader.__init__(self, source.text)
        Scanner.__init__(self)
        Parser.__init__(self)
        self._source = source

    def fetch_directive(self) -> None:
        """Refuses `%YAML` and `%TAG`, which could change what the lines below them mean."""
        self._refuse("directives (`%`) are not used in recipes", "leave the line out")

    def fetch_anchor(self) -> None:
        """Refuses `&name`, without which no alias can be either."""
        self._refuse("anchors (`&`) are not used in recipes", "use `extends` to share values, or quotes for text")

    def fetch_alias(self) -> None:
        """Refuses `*name`: a few aliases of aliases are a text of gigabytes."""
        self._refuse("aliases (`*`) are not used in recipes", "use `extends` to share values, or quotes for text")

    def fetch_tag(self) -> None:
        """Refuses `!name`, YAML's way to name a class."""
        self._refuse("tags (`!`) are not used in recipes", "recipes name components with `use`; put text in quotes")

    def _refuse(self, message: str, hint: str) -> None:
        raise RecipeError([Problem(message, self._source.mark(self.line, self.column), hint)])

    def all(self) -> Iterator[yaml.Event]:
        """Every event in turn; raises `RecipeError` where the text is not YAML."""
        try:
            while self.check_event():
                yield self.get_event()
        except yaml.MarkedYAMLError as error:
            raise RecipeError([_problem(error, self._source)]) from None
        except (ValueError, OverflowError):  # an escape such as "\UFFFFFFFF", of which PyYAML makes no character
            mark = self._source.mark(self.line, self.column)
            raise RecipeError([Problem("an escape in text that stands for no character", mark)]) from None


def _problem(error: yaml.MarkedYAMLError, source: Source) -> Problem:
    said = error.problem or ""
    for pattern, message, from_start, hint in _WORDS:
        if found := re.search(pattern, said):
            mark = (error.context_mark if from_start else None) or error.problem_mark or error.context_mark
            assert mark is not None
            return Problem(found.expand(message), source.mark(mark.line, mark.column), hint)
    mark = error.problem_mark or error.context_mark
    place = source.mark(mark.line, mark.column) if mark else None
    return Problem("this is not valid YAML", place, _QUOTES)
