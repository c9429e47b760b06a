"""Mutates the shipped recipes in over 200 ways: each gives a short error with exit code 3 that names the mutated line."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.conftest import RunNi

pytestmark = pytest.mark.slow

RECIPE_DIR = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(RECIPE_DIR.rglob("*.yaml"))
KEY = re.compile(r"(?<![\w.])([a-z_]+):")
MIN_MUTATIONS = 200
# Keys that recipes choose freely: names of tasks.
FREE_KEYS = {"mnist", "mnistm", "svhn"}
WRONG_VALUES = {"mapping": "{qq: 1}", "nested list": "[[2001-01-01]]", "tag": "!!python/none x", "alias": "*base"}


class Mutation(NamedTuple):
    """A mutated recipe, and the line that was changed; None if the whole file was changed."""

    name: str
    content: bytes
    line: int | None


def recipe_keys(lines: list[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Yields every key of a recipe outside comments, with its line number."""
    for number, line in enumerate(lines, 1):
        for match in KEY.finditer(line.partition("#")[0]):
            yield number, match


def with_line(lines: list[str], number: int, line: str) -> bytes:
    """Returns the recipe with one line replaced."""
    return "\n".join([*lines[: number - 1], line, *lines[number:]]).encode()


def line_mutations(lines: list[str]) -> Iterator[Mutation]:
    """Yields mutations of single lines."""
    draw = random.Random(0)
    for number, match in recipe_keys(lines):
        line, (start, end) = lines[number - 1], match.span(1)
        key = match[1]
        index = draw.randrange(len(key))
        typo = key[:index] + draw.choice("qzxj") + key[index + 1 :]
        if key not in FREE_KEYS:
            yield Mutation(f"typo {key} -> {typo}", with_line(lines, number, line[:start] + typo + line[end:]), number)
        rest = line[match.end() :]
        if rest.strip() and not rest.strip().startswith(("{", "#")):
            value = re.match(r"\s*(\[[^\]]*\]|\{[^}]*\}|[^,}#]*)", rest)
            assert value is not None
            for name, wrong in WRONG_VALUES.items():
                mutated = f"{line[: match.end()]} {wrong}{rest[value.end() :]}"
                yield Mutation(f"{name} for {key}", with_line(lines, number, mutated), number)
            yield Mutation(f"NUL in {key}", with_line(lines, number, line[: match.end()] + " \0" + rest), number)
        if start == len(line) - len(line.lstrip()):
            yield Mutation(f"tab before {key}", with_line(lines, number, "\t" + line), number)
            # A key with its value on the same line can be repeated.
            if rest.strip():
                doubled = with_line(lines, number, f"{line}\n{line}")
                yield Mutation(f"doubled {key}", doubled, number + 1)


def file_mutations(text: str) -> Iterator[Mutation]:
    """Yields mutations of the whole file."""
    yield Mutation("empty", b"", None)
    yield Mutation("only a comment", b"# nothing\n", None)
    yield Mutation("a list", b"- 1\n- 2\n", None)
    yield Mutation("utf-16", text.encode("utf-16"), None)
    yield Mutation("bytes", bytes(range(256)), None)
    yield Mutation("two documents", text.encode() + b"\n---\n" + text.encode(), None)
    names = list(zip("abcdefghi", "bcdefghij", strict=True))
    bomb = "a: &a [1, 1]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in names)
    yield Mutation("alias bomb", bomb.encode(), None)
    yield Mutation("depth bomb", b"[" * 10_000, None)
    yield Mutation("long line", b"ni: " + b"1" * 100_000, None)
    # The beginning of a recipe that extends another one may be a valid recipe.
    if "\nextends:" in text:
        return
    draw = random.Random(0)
    for length in sorted(draw.sample(range(len(text) // 2), 12)):
        yield Mutation(f"cut after {length}", text.encode()[:length], None)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(RECIPE_DIR)))
def test_every_mutation_is_reported(path: Path, ni: RunNi, tmp_path: Path) -> None:
    """There is no traceback, the exit code is 3, and if one line was changed, a problem has this line number."""
    text = path.read_text(encoding="utf-8")
    # The recipe may extend others.
    shutil.copytree(RECIPE_DIR, tmp_path / "recipes")
    mutated_path = tmp_path / "recipes" / path.relative_to(RECIPE_DIR)
    assert ni("check", str(mutated_path)).code == 0
    mutations = [*line_mutations(text.split("\n")), *file_mutations(text)]
    for mutation in mutations:
        mutated_path.write_bytes(mutation.content)
        result = ni("check", str(mutated_path), "--json")
        assert result.code == 3, (mutation.name, result)
        problems = result.json["error"]["problems"]
        assert problems, mutation.name
        if mutation.line is not None:
            assert mutation.line in [problem.get("line") for problem in problems], (mutation.name, result.err)


def test_recipes_are_found() -> None:
    """The parametrized test above would pass without any recipe."""
    assert RECIPES


def test_number_of_mutations() -> None:
    texts = [path.read_text(encoding="utf-8") for path in RECIPES]
    assert sum(len([*line_mutations(text.split("\n")), *file_mutations(text)]) for text in texts) >= MIN_MUTATIONS
