"""Texts made to cost much: each is refused before the work is done, counted in what is done and not in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ni_framework.errors import ProblemsError, RecipeError
from ni_framework.recipe import load, loads
from ni_framework.recipe.parsing.events import Events
from ni_framework.recipe.parsing.parser import MAX_DEPTH, MAX_NODES
from ni_framework.recipe.parsing.problems import LIMIT
from ni_framework.recipe.parsing.source import MAX_BYTES, MAX_LINE
from tests.helpers.recipe_components import VALID, resolve

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + last] * 9)}]\n" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)
# What stands in a text -> the most events that may be read of it, and the reason given.
HOSTILE = {
    "a billion laughs": (BOMB, 5, "anchors"),
    "lists 10 000 deep": ("data: " + "[\n" * 10_000, MAX_DEPTH + 10, "32 levels"),
    "mappings 10 000 deep": ("data: " + "{a:\n" * 10_000, 2 * MAX_DEPTH + 10, "32 levels"),
    "block lists 10 000 deep": ("data:\n  " + "- " * 2000, MAX_DEPTH + 10, "32 levels"),
    "keys without end": ("".join(f"k{n}: \n" for n in range(30_000)), MAX_NODES + 10, "10000 values"),
    "items without end": ("data: [\n" + "1,\n" * 80_000 + "]", MAX_NODES + 10, "10000 values"),
    "empty items without end": ("data: [" + "{},\n" * 50_000 + "]", 2 * MAX_NODES + 10, "10000 values"),
    "1e6 keys": ("".join(f"{n}: 1\n" for n in range(10**6)), 0, "is larger than 256 KiB"),
    "10 MB": ("seed: 3 " * (10 << 17), 0, "is larger than 256 KiB"),
    "one endless line": ("seed: '" + "x" * (MAX_BYTES - 20) + "'", 0, f"no more than {MAX_LINE}"),
}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[yaml.Event]:
    """The events that are read while the test runs."""
    seen: list[yaml.Event] = []
    original = Events.all

    def counted(self: Events) -> Iterator[yaml.Event]:
        for event in original(self):
            seen.append(event)
            yield event

    monkeypatch.setattr(Events, "all", counted)
    return seen


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_before_the_work_is_done(name: str, tmp_path: Path, events: list[yaml.Event]) -> None:
    """One problem, and no more events than the limits allow."""
    text, most, reason = HOSTILE[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=reason) as caught:
        load(path, resolve=resolve)
    assert len(events) <= most
    assert len(caught.value.problems) == 1


def test_events_are_counted(events: list[yaml.Event]) -> None:
    """The count above is one that would be large if the limits were gone."""
    loads(VALID, resolve=resolve)
    assert len(events) > 60


def test_a_file_is_not_read_further_than_the_limit(tmp_path: Path) -> None:
    """A file of 100 GiB, which is nothing but a hole."""
    path = tmp_path / "recipe.yaml"
    with path.open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(RecipeError, match="is larger than 256 KiB"):
        load(path, resolve=resolve)


def test_limits_let_the_largest_pass() -> None:
    """As many bytes, levels and values as are allowed, and one more of the latter two."""
    padded = VALID.ljust(MAX_BYTES - 1000, "\n")
    assert loads(padded, resolve=resolve).seed == 3
    levels = "data: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    with pytest.raises(RecipeError, match="data: must be a name"):
        loads(levels, resolve=resolve)
    with pytest.raises(RecipeError, match="at most 32 levels"):
        loads(levels.replace("[]", "[[]]"), resolve=resolve)
    many = f"data: {{use: folder, parts: [], numbers: [{'1,' * 1900}\n"
    base = VALID.replace("data: digits\n", "") + many
    numbers = (base + f"{'1,' * 1900}\n" * 4 + "]}").replace("\n]}", "]}\n")
    recipe = loads(numbers, resolve=resolve)
    assert len(recipe.data.options.numbers) == 9500
    with pytest.raises(RecipeError, match="at most 10000 values"):
        loads(numbers, ["data.numbers=[" + "1," * 600 + "]"], resolve=resolve)


def test_values_are_counted_over_all_files(tmp_path: Path) -> None:
    """Sixteen files of 9000 values each are too many together."""
    filler = "data: {x: [\n" + "1,\n" * 6000 + "]}\n"
    (tmp_path / "base.yaml").write_text(filler)
    (tmp_path / "top.yaml").write_text(f"extends: base.yaml\n{filler}")
    with pytest.raises(RecipeError, match=r"base.yaml:\d+:1: error: a recipe has at most 10000 values"):
        load(tmp_path / "top.yaml", resolve=resolve)


def test_the_keys_of_overrides_are_values_too() -> None:
    """Many long key paths are as much work as a long recipe."""
    overrides = [f"a{n}{'.b' * 30}=1" for n in range(400)]
    with pytest.raises(RecipeError, match="a recipe has at most 10000 values"):
        loads(VALID, overrides, resolve=resolve)


def test_problems_have_an_end() -> None:
    """The report of a text with thousands of problems shows the first of them and says so."""
    with pytest.raises(ProblemsError) as caught:
        loads(VALID + "".join(f"k{n}: 1\n" for n in range(4000)), resolve=resolve)
    assert len(caught.value.problems) == LIMIT + 1
    assert str(caught.value).endswith("error: there are more problems than are shown here")
