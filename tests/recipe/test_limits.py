"""Hostile texts: each is rejected before it causes much work. The work is counted in events, not in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ni_framework.errors import ProblemsError, RecipeError
from ni_framework.recipe import load, loads
from ni_framework.recipe.parsing.events import Events
from ni_framework.recipe.parsing.parser import MAX_DEPTH, MAX_NODES
from ni_framework.recipe.parsing.problems import MAX_PROBLEMS
from ni_framework.recipe.parsing.source import MAX_BYTES, MAX_LINE
from tests.helpers.recipe_components import VALID_RECIPE, resolve_component

YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + last] * 9)}]\n" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)
# The text, the largest number of events that may be read of it, and a part of the message.
HOSTILE_RECIPES = {
    "a billion laughs": (YAML_BOMB, 5, "anchors"),
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
    recorded: list[yaml.Event] = []
    original = Events.all

    def record_all(self: Events) -> Iterator[yaml.Event]:
        for event in original(self):
            recorded.append(event)
            yield event

    monkeypatch.setattr(Events, "all", record_all)
    return recorded


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_RECIPES)
def test_hostile_recipe_is_rejected_early(name: str, tmp_path: Path, events: list[yaml.Event]) -> None:
    """With one problem, and after no more events than the limits allow."""
    text, max_events, reason = HOSTILE_RECIPES[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=reason) as caught:
        load(path, resolve=resolve_component)
    assert len(events) <= max_events
    assert len(caught.value.problems) == 1


def test_events_are_counted(events: list[yaml.Event]) -> None:
    """A control of the test above: reading a valid recipe gives many events."""
    loads(VALID_RECIPE, resolve=resolve_component)
    assert len(events) > 60


def test_a_file_is_not_read_further_than_the_limit(tmp_path: Path) -> None:
    """A sparse file of 100 GiB."""
    path = tmp_path / "recipe.yaml"
    with path.open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(RecipeError, match="is larger than 256 KiB"):
        load(path, resolve=resolve_component)


def test_recipes_at_the_limits_are_read() -> None:
    """As many bytes, levels and values as are allowed; one more level or more values are rejected."""
    padded = VALID_RECIPE.ljust(MAX_BYTES - 1000, "\n")
    assert loads(padded, resolve=resolve_component).seed == 3
    levels = "data: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    with pytest.raises(RecipeError, match="data: must be a name"):
        loads(levels, resolve=resolve_component)
    with pytest.raises(RecipeError, match="must not be more than 32 levels deep"):
        loads(levels.replace("[]", "[[]]"), resolve=resolve_component)
    many = f"data: {{use: folder, parts: [], numbers: [{'1,' * 1900}\n"
    base = VALID_RECIPE.replace("data: digits\n", "") + many
    numbers = (base + f"{'1,' * 1900}\n" * 4 + "]}").replace("\n]}", "]}\n")
    recipe = loads(numbers, resolve=resolve_component)
    assert len(recipe.data.options.numbers) == 9500
    with pytest.raises(RecipeError, match="must not have more than 10000 values"):
        loads(numbers, ["data.numbers=[" + "1," * 600 + "]"], resolve=resolve_component)


@pytest.mark.slow
def test_values_are_counted_over_all_files(tmp_path: Path) -> None:
    """Two files of 6000 values each are too large together."""
    filler = "data: {x: [\n" + "1,\n" * 6000 + "]}\n"
    (tmp_path / "base.yaml").write_text(filler)
    (tmp_path / "top.yaml").write_text(f"extends: base.yaml\n{filler}")
    with pytest.raises(RecipeError, match=r"base.yaml:\d+:1: error: a recipe must not have more than 10000 values"):
        load(tmp_path / "top.yaml", resolve=resolve_component)


def test_keys_of_overrides_count_as_values() -> None:
    """Many long key paths cause as much work as a long recipe."""
    overrides = [f"a{n}{'.b' * 30}=1" for n in range(400)]
    with pytest.raises(RecipeError, match="a recipe must not have more than 10000 values"):
        loads(VALID_RECIPE, overrides, resolve=resolve_component)


def test_the_number_of_reported_problems_is_limited() -> None:
    """The report of a text with thousands of problems shows the first ones, and that there are more."""
    with pytest.raises(ProblemsError) as caught:
        loads(VALID_RECIPE + "".join(f"k{n}: 1\n" for n in range(4000)), resolve=resolve_component)
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert str(caught.value).endswith("error: there are more problems than are shown here")
