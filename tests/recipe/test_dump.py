"""Writing a recipe as YAML: the text, and values that need quotes or exact digits."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ni_framework.options import ComponentSpec
from ni_framework.recipe import Recipe, dump, load, loads
from tests.helpers.recipe_components import VALID_RECIPE, Empty, Everything, resolve_component


def load_valid() -> Recipe:
    """The valid recipe."""
    return loads(VALID_RECIPE, resolve=resolve_component)


def load_with_data_options(**options: Any) -> Recipe:
    """The valid recipe with a component that has options of every type."""
    return attrs.evolve(load_valid(), data=ComponentSpec("folder", Everything(parts=(), **options)))


def test_every_default_is_written() -> None:
    """In the schema's order, with `use` first and short lists on one line; without fields of the loader."""
    text = dump(load_valid())
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


def test_complete_scripts_and_the_models_own_keys_are_written() -> None:
    """Both are needed to read the same recipe again."""
    recipe = loads(VALID_RECIPE, ["model.scripts=[{}, {functions: 2}]"], resolve=resolve_component)
    text = dump(recipe)
    assert text.count("functions: 5") == 2
    assert "    - iterations: 4\n      functions: 2\n      added_functions: []\n      code: 64\n" in text
    assert loads(text, resolve=resolve_component) == recipe


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
def test_quoting_of_text(word: str, written: str) -> None:
    """Text has quotes only if it would be read as another value without them."""
    recipe = load_with_data_options(word=word)
    assert f"\n  word: {written}\n" in dump(recipe)
    assert loads(dump(recipe), resolve=resolve_component) == recipe


@pytest.mark.parametrize(
    "text", ["x" * 5000, " " * 5000, "\\" * 5000, "\x1b \U000e0001" * 2000, "a\n" * 3000, '" ' * 2000]
)
def test_long_text_is_written_over_several_lines(text: str) -> None:
    """No line is longer than the loader allows."""
    recipe = attrs.evolve(load_with_data_options(word=text), requires=(text, "b"))
    assert max(map(len, dump(recipe).splitlines())) < 2200
    assert loads(dump(recipe), resolve=resolve_component) == recipe


@pytest.mark.parametrize("number", [0.1, 1e-300, 5e-324, 1e22, 0.1 + 0.2, -0.0, 100.0, 1.7976931348623157e308])
def test_floats_are_exact(number: float) -> None:
    """Bit-identical, and still a float."""
    again = loads(dump(load_with_data_options(either=number)), resolve=resolve_component).data.options.either
    assert isinstance(again, float)
    assert again.hex() == number.hex()


def test_long_lists_have_one_item_on_each_line() -> None:
    """If the list does not fit on one line."""
    recipe = load_with_data_options(numbers=tuple(float(n) for n in range(40)), pairs=((1, "a"), (2, "b")))
    assert "  numbers:\n    - 0.0\n    - 1.0\n" in dump(recipe)
    assert "  pairs: [[1, a], [2, b]]\n" in dump(recipe)
    assert loads(dump(recipe), resolve=resolve_component) == recipe


def test_values_that_cannot_be_read_again_are_rejected() -> None:
    with pytest.raises(TypeError, match="a recipe cannot contain"):
        dump(attrs.evolve(load_valid(), data=ComponentSpec("folder", {"word": object()})))


def test_component_specs_compare_by_name_and_options() -> None:
    """The key path is not part of the value."""
    assert ComponentSpec("digits", Empty(), path="data") == ComponentSpec("digits", Empty())
    assert load_valid().data.path == "data"
    assert load.__module__ == "ni_framework.recipe.load"


def test_whole_numbers_stay_whole() -> None:
    """If both kinds of number are accepted, whichever is declared first."""
    assert type(loads(dump(load_with_data_options(either=3)), resolve=resolve_component).data.options.either) is int
    assert type(loads(dump(load_with_data_options(either=3.0)), resolve=resolve_component).data.options.either) is float
