"""Changes of recipes as parsed data: everything that people and programs do to them, by a seed."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 0.0, 0.5, 1.0, -0.5, 1e30, 10**12, 2**63, 10**30, math.inf, -math.inf, math.nan,
    "", "text", "1", "true", "null", [], [1], [1, 1, 1], [0.5, 0.9], [None], ["text"], [{}], [[1]], {}, {"a": 1},
    {"use": "text"}, {"use": None}, {"iterations": 2}, [{"functions": 3}, {}],
)  # fmt: skip
KEYS = ("use", "extends", "depth", "k", "scripts", "", "<<", "x" * 101, "no such key")

Place = tuple[Any, Any]  # a container and the key or index in it


def mutated(recipe: Any, names: Sequence[str], seed: str) -> Any:
    """The recipe with one or two changes; `names` are those of components, of all kinds mixed."""
    generator = random.Random(seed)
    recipe = copy.deepcopy(recipe)
    for _ in range(generator.choice((1, 1, 1, 2))):
        if places := list(_places(recipe)):
            _change(recipe, places, names, generator)
    return recipe


def _change(recipe: Any, places: list[Place], names: Sequence[str], generator: random.Random) -> None:
    container, key = generator.choice(places)
    value = container[key]
    mappings = [recipe, *(inside[at] for inside, at in places if isinstance(inside[at], dict))]
    kind = generator.randrange(11)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[_misspelt(key, generator)] = container.pop(key)
    elif kind == 2:
        other = generator.choice(places)
        new = generator.choice([*KEYS, other[1] if isinstance(other[1], str) else "item"])
        generator.choice(mappings)[new] = generator.choice([*VALUES, copy.deepcopy(other[0][other[1]])])
    elif kind == 3 and (named := [inside for inside in mappings if "use" in inside]):
        generator.choice(named)["use"] = generator.choice(names)
    elif kind == 4:
        container[key] = generator.choice([name := generator.choice(names), {"use": name}, {"use": name, "keep": 0.5}])
    elif kind == 5 and (lists := [inside[at] for inside, at in places if isinstance(inside[at], list)]):
        chosen = generator.choice(lists)
        chosen[:] = generator.choice([chosen[1:], chosen * 2, chosen[::-1], chosen[:1], [*chosen, *chosen[:1]]])
    elif kind == 6:
        moved = container.pop(key)
        generator.choice(mappings)[key if isinstance(key, str) else "item"] = moved
    elif kind in (7, 8):
        near = [value + 1, -value, value * 1.0, value / 2] if type(value) in (int, float) and abs(value) < 2**60 else []
        container[key] = generator.choice(near or [value])
    else:
        container[key] = copy.deepcopy(generator.choice(VALUES))


def _places(inside: Any) -> Iterator[Place]:
    for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
        yield inside, key
        if isinstance(inside[key], dict | list):
            yield from _places(inside[key])


def _misspelt(key: str, generator: random.Random) -> str:
    place = generator.randrange(len(key) + 1)
    return generator.choice([key[:place] + "x" + key[place:], key[:place] + key[place + 1 :], key.upper(), f" {key}"])
