"""PyYAML's scanner and parser without the part that builds objects, with error messages that a user understands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from ni_framework.errors import Problem, RecipeError
from ni_framework.recipe.parsing.source import Source

_QUOTES = "put text with special characters in quotes"
_INDENT = "keys of one mapping start in the same column; text with `: ` in it needs quotes"

# A pattern in PyYAML's message; our message; whether to point to where the broken value began instead of to where PyYAML
# noticed it; and what to do.
_SYNTAX_MESSAGES: tuple[tuple[str, str, bool, str | None], ...] = (
    (r"character '\\t' that cannot start", "a tab is not allowed here", False, "indent and separate with spaces"),
    (r"character ('.+') that cannot start", r"a value cannot begin with \1", False, _QUOTES),
    (r"could not find expected ':'", "this line is not `key: value`", True, "a key is followed by `:` and a space"),
    (r"mapping values are not allowed", "a `:` is not allowed here", False, _INDENT),
    (r"mapping keys are not allowed", "a `?` is not allowed here", False, _QUOTES),
    (
        r"sequence entries are not allowed",
        "a list item `- ` is not allowed here",
        False,
        "start it on a line of its own",
    ),
    (r"unexpected (end of stream|document)", "this quote is not closed", True, "close it with the same quote"),
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
    (
        r"indentation indicator|comment or a line break",
        "only `|` or `>` may be on the first line of a block of text",
        True,
        _QUOTES,
    ),
    (r"expected ',' or '\]'", "a `,` or the closing `]` is missing in the list that begins here", True, None),
    (r"expected ',' or '\}'", "a `,` or the closing `}` is missing in the mapping that begins here", True, None),
    (
        r"expected the node content, but found '<(stream|document)",
        "the text ends where a value is expected",
        False,
        "close every `[` and `{`",
    ),
    (r"expected the node content", "a value is missing here", False, None),
    (r"expected <block end>", "this does not fit the lines above it", False, _INDENT),
    (r"expected '<document start>'", "nothing may follow the end of the recipe", False, _INDENT),
    (r"tag|URI", "tags (`!`) are not used in recipes", False, _QUOTES),
)


class Events(Reader, Scanner, Parser):
    """The events of one text. Without PyYAML's composer and constructor nothing in a recipe can become an object."""

    def __init__(self, source: Source) -> None:
        Reader.__init__(self, source.text)
        Scanner.__init__(self)
        Parser.__init__(self)
        self._source = source

    def fetch_directive(self) -> None:
        """Rejects `%YAML` and `%TAG`, which could change the meaning of the lines below them."""
        self._reject("directives (`%`) are not used in recipes", "remove the line")

    def fetch_anchor(self) -> None:
        """Rejects `&name`, which an alias would refer to."""
        self._reject("anchors (`&`) are not used in recipes", "use `extends` to share values, or quotes for text")

    def fetch_alias(self) -> None:
        """Rejects `*name`: a few aliases of aliases expand to gigabytes of text."""
        self._reject("aliases (`*`) are not used in recipes", "use `extends` to share values, or quotes for text")

    def fetch_tag(self) -> None:
        """Rejects `!name`, YAML's way to name a class."""
        self._reject("tags (`!`) are not used in recipes", "recipes name components with `use`; put text in quotes")

    def _reject(self, message: str, hint: str) -> None:
        raise RecipeError([Problem(message, self._source.mark(self.line, self.column), hint)])

    def all(self) -> Iterator[yaml.Event]:
        """All events in order; raises `RecipeError` if the text is not YAML."""
        try:
            while self.check_event():
                yield self.get_event()
        except yaml.MarkedYAMLError as error:
            raise RecipeError([_yaml_problem(error, self._source)]) from None
        except (ValueError, OverflowError):
            # PyYAML fails so on an escape such as "\UFFFFFFFF", which is not a character.
            mark = self._source.mark(self.line, self.column)
            raise RecipeError([Problem("an escape in text that is not a character", mark)]) from None


def _yaml_problem(error: yaml.MarkedYAMLError, source: Source) -> Problem:
    yaml_message = error.problem or ""
    for pattern, message, from_start, hint in _SYNTAX_MESSAGES:
        if matched := re.search(pattern, yaml_message):
            mark = (error.context_mark if from_start else None) or error.problem_mark or error.context_mark
            assert mark is not None
            return Problem(matched.expand(message), source.mark(mark.line, mark.column), hint)
    mark = error.problem_mark or error.context_mark
    place = source.mark(mark.line, mark.column) if mark else None
    return Problem("this is not valid YAML", place, _QUOTES)
