"""A recipe written as YAML: the text itself, and the values that need care."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ni_framework.options import Choice
from ni_framework.recipe import Recipe, dump, load, loads
from tests.helpers.recipe_components import VALID, Empty, Everything, resolve


def valid() -> Recipe:
    """The recipe of these tests."""
    return loads(VALID, resolve=resolve)


def with_data(**options: Any) -> Recipe:
    """The same with an option of every type."""
    return attrs.evolve(valid(), data=Choice("folder", Everything(parts=(), **options)))


def test_every_default_is_written() -> None:
    """In the schema's order, `use` first, short lists on one line; nothing of the loader's own."""
    text = dump(valid())
    assert [line.partition(":")[0] for line in text.splitlines() if not line.startswith(" ")] == [
        "ni", "requires", "seed", "model", "data", "train", "engine",
    ]  # fmt: skip
    assert "  router:\n    use: kernel\n    truncation: 1.2\n" in text
    assert "    image: [1, 8, 8]\n" in text
    assert "    linear:\n      use: modlin\n" in text
    assert "  head:\n    use: classify\n" in text
    assert "  schedule:\n    use: one_cycle\n    warmup: 0.1\n" in text
    assert "  evaluate_every: null\n" in text
    assert not {"name:", "marks:", "extends:"} & set(text.split())


def test_scripts_are_written_in_full_beside_the_models_own_keys() -> None:
    """Both are needed to read the same recipe again."""
    recipe = loads(VALID, ["model.scripts=[{}, {functions: 2}]"], resolve=resolve)
    text = dump(recipe)
    assert text.count("functions: 5") == 2
    assert "    - iterations: 4\n      functions: 2\n      grown: []\n      code: 64\n" in text
    assert loads(text, resolve=resolve) == recipe


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain", "plain"), ("a-b_c.d/e", "a-b_c.d/e"), ("no", "no"), ("true", '"true"'), ("Null", '"Null"'),
        ("", '""'),
        ("~", '"~"'), ("1e-3", '"1e-3"'), (".5", '".5"'), (".inf", '".inf"'), ("0x1F", '"0x1F"'), ("a: b", '"a: b"'),
        ("# no", '"# no"'), ("'", "\"'\""), ('"\\', '"\\"\\\\"'), ("a\nb\t", '"a\\nb\\t"'),
        ("caf\xe9 \U0001f9e0", '"caf\xe9 \U0001f9e0"'),
        ("\x85\u2028\x1b", '"\\u0085\\u2028\\u001b"'), ("\U000e0001", '"\\U000e0001"'), (" ", '" "'), ("-", '"-"'),
    ],
)  # fmt: skip
def test_text(word: str, written: str) -> None:
    """Quoted where it could be read as something else, and only there."""
    recipe = with_data(word=word)
    assert f"\n  word: {written}\n" in dump(recipe)
    assert loads(dump(recipe), resolve=resolve) == recipe


@pytest.mark.parametrize(
    "text", ["x" * 5000, " " * 5000, "\\" * 5000, "\x1b \U000e0001" * 2000, "a\n" * 3000, '" ' * 2000]
)
def test_long_text(text: str) -> None:
    """Written over several lines, none of them longer than is read."""
    recipe = attrs.evolve(with_data(word=text), requires=(text, "b"))
    assert max(map(len, dump(recipe).splitlines())) < 2200
    assert loads(dump(recipe), resolve=resolve) == recipe


@pytest.mark.parametrize("number", [0.1, 1e-300, 5e-324, 1e22, 0.1 + 0.2, -0.0, 100.0, 1.7976931348623157e308])
def test_floats_are_exact(number: float) -> None:
    """To the last bit, and still a float."""
    again = loads(dump(with_data(either=number)), resolve=resolve).data.options.either
    assert isinstance(again, float)
    assert again.hex() == number.hex()


def test_long_lists_stand_below_each_other() -> None:
    """One item a line where a line would be too long; lists of lists too."""
    recipe = with_data(numbers=tuple(float(n) for n in range(40)), pairs=((1, "a"), (2, "b")))
    assert "  numbers:\n    - 0.0\n    - 1.0\n" in dump(recipe)
    assert "  pairs: [[1, a], [2, b]]\n" in dump(recipe)
    assert loads(dump(recipe), resolve=resolve) == recipe


def test_what_no_recipe_can_hold() -> None:
    """A value that could not be read again is the caller's mistake."""
    with pytest.raises(TypeError, match="a recipe cannot hold"):
        dump(attrs.evolve(valid(), data=Choice("folder", {"word": object()})))


def test_choices_compare_by_name_and_options() -> None:
    """The place of a choice in the recipe is no part of its value."""
    assert Choice("digits", Empty(), path="data") == Choice("digits", Empty())
    assert valid().data.path == "data"
    assert load.__module__ == "ni_framework.recipe.load"


def test_whole_numbers_stay_whole() -> None:
    """Where both kinds of number are welcome, whichever is declared first."""
    assert type(loads(dump(with_data(either=3)), resolve=resolve).data.options.either) is int
    assert type(loads(dump(with_data(either=3.0)), resolve=resolve).data.options.either) is float
