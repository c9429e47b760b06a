"""Random changes of recipes as parsed data, like those that people and programs make; a seed decides which."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

MUTATION_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 0.0, 0.5, 1.0, -0.5, 1e30, 10**12, 2**63, 10**30, math.inf, -math.inf, math.nan,
    "", "text", "1", "true", "null", [], [1], [1, 1, 1], [0.5, 0.9], [None], ["text"], [{}], [[1]], {}, {"a": 1},
    {"use": "text"}, {"use": None}, {"iterations": 2}, [{"functions": 3}, {}],
)  # fmt: skip
MUTATION_KEYS = ("use", "extends", "depth", "k", "scripts", "", "<<", "x" * 101, "no such key")

Location = tuple[Any, Any]  # a container and the key or index in it


def mutate_recipe(recipe: Any, names: Sequence[str], seed: str) -> Any:
    """The recipe with one or two changes.

    Args:
        recipe: Parsed YAML.
        names: Names of components of all kinds, to be used at random.
        seed: Decides the changes.
    """
    generator = random.Random(seed)
    recipe = copy.deepcopy(recipe)
    for _ in range(generator.choice((1, 1, 1, 2))):
        if locations := list(_iter_locations(recipe)):
            _apply_change(recipe, locations, names, generator)
    return recipe


def _apply_change(recipe: Any, locations: list[Location], names: Sequence[str], generator: random.Random) -> None:
    container, key = generator.choice(locations)
    value = container[key]
    mappings = [recipe, *(parent[at] for parent, at in locations if isinstance(parent[at], dict))]
    kind = generator.randrange(11)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[_misspell(key, generator)] = container.pop(key)
    elif kind == 2:
        other = generator.choice(locations)
        new = generator.choice([*MUTATION_KEYS, other[1] if isinstance(other[1], str) else "item"])
        generator.choice(mappings)[new] = generator.choice([*MUTATION_VALUES, copy.deepcopy(other[0][other[1]])])
    elif kind == 3 and (components := [mapping for mapping in mappings if "use" in mapping]):
        generator.choice(components)["use"] = generator.choice(names)
    elif kind == 4:
        container[key] = generator.choice([name := generator.choice(names), {"use": name}, {"use": name, "keep": 0.5}])
    elif kind == 5 and (lists := [parent[at] for parent, at in locations if isinstance(parent[at], list)]):
        chosen = generator.choice(lists)
        chosen[:] = generator.choice([chosen[1:], chosen * 2, chosen[::-1], chosen[:1], [*chosen, *chosen[:1]]])
    elif kind == 6:
        item = container.pop(key)
        generator.choice(mappings)[key if isinstance(key, str) else "item"] = item
    elif kind in (7, 8):
        near = [value + 1, -value, value * 1.0, value / 2] if type(value) in (int, float) and abs(value) < 2**60 else []
        container[key] = generator.choice(near or [value])
    else:
        container[key] = copy.deepcopy(generator.choice(MUTATION_VALUES))


def _iter_locations(container: Any) -> Iterator[Location]:
    for key in list(container) if isinstance(container, dict) else range(len(container)):
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _iter_locations(container[key])


def _misspell(key: str, generator: random.Random) -> str:
    place = generator.randrange(len(key) + 1)
    return generator.choice([key[:place] + "x" + key[place:], key[:place] + key[place + 1 :], key.upper(), f" {key}"])
