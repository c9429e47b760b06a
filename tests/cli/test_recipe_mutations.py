"""Shipped recipes, spoilt in two hundred ways: always a short error with exit code 3 that names the spoilt line."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.conftest import Ni

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
KEY = re.compile(r"(?<![\w.])([a-z_]+):")
AT_LEAST = 200
FREE = {"mnist", "mnistm", "svhn"}  # keys that a recipe makes up: names of tasks
WRONG = {"mapping": "{qq: 1}", "nested list": "[[2001-01-01]]", "tag": "!!python/none x", "alias": "*base"}


class Mutation(NamedTuple):
    """A spoilt recipe, and the line that is spoilt (None where the whole is)."""

    name: str
    content: bytes
    line: int | None


def keys(lines: list[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Every key of a recipe outside comments, with its line."""
    for number, line in enumerate(lines, 1):
        for match in KEY.finditer(line.partition("#")[0]):
            yield number, match


def with_line(lines: list[str], number: int, line: str) -> bytes:
    """The recipe with one line changed."""
    return "\n".join([*lines[: number - 1], line, *lines[number:]]).encode()


def single(lines: list[str]) -> Iterator[Mutation]:
    """Changes to one line."""
    draw = random.Random(0)
    for number, match in keys(lines):
        line, (start, end) = lines[number - 1], match.span(1)
        key = match[1]
        place = draw.randrange(len(key))
        typo = key[:place] + draw.choice("qzxj") + key[place + 1 :]
        if key not in FREE:
            yield Mutation(f"typo {key} -> {typo}", with_line(lines, number, line[:start] + typo + line[end:]), number)
        rest = line[match.end() :]
        if rest.strip() and not rest.strip().startswith(("{", "#")):
            value = re.match(r"\s*(\[[^\]]*\]|\{[^}]*\}|[^,}#]*)", rest)
            assert value is not None
            for name, wrong in WRONG.items():
                spoilt = f"{line[: match.end()]} {wrong}{rest[value.end() :]}"
                yield Mutation(f"{name} for {key}", with_line(lines, number, spoilt), number)
            yield Mutation(f"NUL in {key}", with_line(lines, number, line[: match.end()] + " \0" + rest), number)
        if start == len(line) - len(line.lstrip()):
            yield Mutation(f"tab before {key}", with_line(lines, number, "\t" + line), number)
            if rest.strip():  # a key with its value on one line
                doubled = with_line(lines, number, f"{line}\n{line}")
                yield Mutation(f"doubled {key}", doubled, number + 1)


def whole(text: str) -> Iterator[Mutation]:
    """Changes to the file as a whole."""
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
    if "\nextends:" in text:  # a part of it may be a whole recipe
        return
    draw = random.Random(0)
    for length in sorted(draw.sample(range(len(text) // 2), 12)):
        yield Mutation(f"cut after {length}", text.encode()[:length], None)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_mutation_is_answered(path: Path, ni: Ni, tmp_path: Path) -> None:
    """No traceback, exit code 3, and for changes to one line that line among the problems."""
    text = path.read_text(encoding="utf-8")
    shutil.copytree(FOLDER, tmp_path / "recipes")  # for what the recipe extends
    spoilt = tmp_path / "recipes" / path.relative_to(FOLDER)
    assert ni("check", str(spoilt)).code == 0
    mutations = [*single(text.split("\n")), *whole(text)]
    for mutation in mutations:
        spoilt.write_bytes(mutation.content)
        done = ni("check", str(spoilt), "--json")
        assert done.code == 3, (mutation.name, done)
        problems = done.json["error"]["problems"]
        assert problems, mutation.name
        if mutation.line is not None:
            assert mutation.line in [problem.get("line") for problem in problems], (mutation.name, done.err)


def test_recipes_are_found() -> None:
    """An empty list would make the test above pass for nothing."""
    assert RECIPES


def test_mutations_are_two_hundred() -> None:
    """Over all shipped recipes."""
    texts = [path.read_text(encoding="utf-8") for path in RECIPES]
    assert sum(len([*single(text.split("\n")), *whole(text)]) for text in texts) >= AT_LEAST
