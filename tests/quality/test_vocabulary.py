"""The repository uses one vocabulary: no banned words in names, texts and documents, and one name for one meaning."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.quality.vocabulary import (
    BANNED_IN_NAMES,
    ROOT,
    find_banned_names,
    find_banned_texts,
    iter_documents,
)

pytestmark = pytest.mark.quality

# Names that several modules define at top level -> why.
SHARED_NAMES = {
    "command": "the one command of each file of `cli`, by which `cli.app` finds it",
}


@pytest.mark.slow
def test_no_banned_words() -> None:
    """In docstrings, comments, help, messages, recipes and Markdown."""
    found = [line for name, text in iter_documents() for line in find_banned_texts(name, text)]
    assert not found, f"{len(found)} banned words; what to write instead:\n" + "\n".join(found)


@pytest.mark.slow
def test_no_banned_names() -> None:
    """In identifiers of the package, the plugins and the tests."""
    found = [line for name, text in iter_documents() if name.endswith(".py") for line in find_banned_names(name, text)]
    assert not found, f"{len(found)} banned names; what to write instead:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("# It tells how long it took.", "tells"),
        ('"""The run goes on."""', "goes on"),
        ("# where the file lies", "lies"),
        ('message = f"{name} is another"', "is another"),
        ("x = 1  # on the way back", "way back"),
    ],
)
def test_a_banned_word_is_found(line: str, word: str) -> None:
    (found,) = find_banned_texts("module.py", line)
    assert found.startswith(f"module.py:1: {word!r} -> "), found


def test_a_banned_name_is_found() -> None:
    (found,) = find_banned_names("module.py", "x = 1\nlast_told = x\n")
    assert found == f"module.py:2: last_told -> {BANNED_IN_NAMES['told']}", found
    assert not find_banned_names("module.py", "held_out_split = 'told'\n"), "held-out is a word of the field"


def test_the_glossary_may_name_old_words() -> None:
    document = "<!-- glossary -->\n| told |\n<!-- /glossary -->\nIt is told.\n"
    (found,) = find_banned_texts("page.md", document)
    assert found.startswith("page.md:4:"), found


def test_names_are_defined_once() -> None:
    """A function, class or constant at top level has a name that no other module uses; exceptions have a reason."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in [*ROOT.glob("ni_framework/**/*.py"), *ROOT.glob("plugins/*/ni_*/**/*.py")]:
        # Templates of `ni plugin new` define the same class once for each kind.
        if "components" in path.parts and "scaffold" in path.parts:
            continue
        for name in _top_level_names(path):
            places[name].add(str(path.relative_to(ROOT)))
    repeated = {name: sorted(paths) for name, paths in places.items() if len(paths) > 1}
    assert repeated.keys() == SHARED_NAMES.keys(), {n: p for n, p in repeated.items() if n not in SHARED_NAMES}
    assert len(SHARED_NAMES) < 20, "too many names mean several things"


def _top_level_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    # Type variables are letters by convention.
    return {name for name in names if not re.fullmatch(r"__\w+__|_|[A-Z]", name)}
