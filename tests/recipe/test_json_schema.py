"""The JSON Schema and the loader accept and refuse the same recipes."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from ni_framework.errors import OptionError, PluginError, RecipeError
from ni_framework.registry import recipe_in
from ni_framework.registry.schema import installed_schema
from tests.engine.small import TEXT

RECIPES = Path(__file__).parents[2] / "recipes"
MUTATIONS = 1500
Place = tuple[str | int, ...]

# JSON has one kind of number, in which 1.0 is whole; a recipe has two.
Strict = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)
NESTED = """
ni: 1
model:
  width: 12
  input: {use: entities, entities: 5, features: 3}
  iterations: 2
  functions: 3
  code: 5
  type: 4
  embedding: separate
  router: {use: function_dropout, keep: 0.7, inner: {use: quantised, size: 5, inner: stochastic_kernel}}
  body: {heads: 2, key: 3, linear: gated}
data: {use: multitask, tasks: {a: {use: npz, file: a.npz, image: [1, 8, 8], classes: 3}, b: digits}}
train: {steps: 6, batch: 8, schedule: cosine, optimizer: {betas: [0.9, 0.95]}, skip: {spike: null}}
engine: local
"""
SCRIPTS = TEXT.replace("scripts: 1", "scripts: [{}, {functions: 2, router: {truncation: 1.0}}, {body: lines_of_code}]")


NUMBERS = [0, -1, 1, 2, 0.5, 1.0, -0.5, 10**12]
VALUES = [*NUMBERS, None, True, "inf", "", "kernel", "4", [], {}, [1, 2], [0.1, 2.0], {"use": "mlp"}, {"a": 1}]
NAMES = "kernel mlp none quantised digits modlin plain separate nowhere lines_of_code npz cosine"
KEYS = "keep use size lines average anything spike temporary"
HOW = "nudge nudge nudge remove misspell add replace replace replace rename rename list move negate negate"


def bases() -> dict[str, Any]:
    """Valid recipes, complete in themselves."""
    texts = {path.name: path.read_text() for path in RECIPES.rglob("*.yaml")}
    texts |= {"small": TEXT, "nested": NESTED, "scripts": SCRIPTS}
    found = {name: yaml.safe_load(text) for name, text in texts.items()}
    return {name: data for name, data in found.items() if "extends" not in data}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema of what is installed."""
    schema, faults = installed_schema()
    assert faults == []
    return schema


def places(data: Any, here: Place = ()) -> Iterator[Place]:
    """Every key path of a tree."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*here, key)
        yield from places(value, (*here, key))


def at(data: Any, place: Place) -> Any:
    """What stands at a key path."""
    for key in place:
        data = data[key]
    return data


def mutated(base: Any, generator: random.Random) -> tuple[Any, str]:
    """A recipe with one thing changed, and what it was."""
    data = copy.deepcopy(base)
    everywhere = list(places(data))
    place = generator.choice(everywhere)
    holder, key = at(data, place[:-1]), place[-1]
    old = holder[key]
    uses = [spot for spot in everywhere if spot[-1] == "use"]
    how = generator.choice(HOW.split())
    if how == "remove":
        del holder[key]
    elif how == "misspell" and isinstance(key, str):
        holder[key[:-1] or "x"] = holder.pop(key)
    elif how == "add" and isinstance(holder, dict):
        holder[generator.choice(KEYS.split())] = generator.choice(VALUES)
    elif how == "rename" and uses:
        spot = generator.choice(uses)
        at(data, spot[:-1])["use"] = generator.choice(NAMES.split())
    elif how == "list" and isinstance(old, list) and old:
        generator.choice([old.pop, lambda: old.append(copy.deepcopy(old[0]))])()
    elif how == "move":
        target = at(data, generator.choice(everywhere)[:-1])
        if isinstance(target, dict):
            target[str(key)] = copy.deepcopy(old)
    elif how == "nudge" and isinstance(old, int | float):
        holder[key] = old + 1 if isinstance(old, int) else old * 0.9
    elif how == "negate" and isinstance(old, int | float):
        holder[key] = generator.choice([-old, old / 3, old * 1000, float(old), str(old)])
    else:
        how = "replace"
        holder[key] = generator.choice(VALUES)
    return data, f"{how} at {'.'.join(map(str, place))}"


class Code:
    """Notes what components' own code objects to, which no declaration can tell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: set[str] = set()
        original = OptionError.__init__

        def init(error: OptionError, option: str, message: str, hint: str | None = None) -> None:
            self.messages.add(message)
            original(error, option, message, hint)

        monkeypatch.setattr(OptionError, "__init__", init)

    def alone(self, error: RecipeError | PluginError) -> bool:
        """Whether an error holds nothing else."""
        return all(any(message in problem.message for message in self.messages) for problem in error.problems)


def disagreements(schema: dict[str, Any], code: Code, counts: Counter[str], recipes: Sequence[Any]) -> Iterator[str]:
    """Where schema and loader differ over mutated recipes; how often each said what is counted."""
    validator = Strict(schema)
    generator = random.Random(4)
    for _ in range(MUTATIONS):
        base = generator.choice(recipes)
        data, what = mutated(base, generator)
        if data == base or "extends" in data:
            continue
        says = next(iter(validator.iter_errors(data)), None)
        try:
            recipe_in(json.dumps(data, indent=1))
            refusal = None
        except (RecipeError, PluginError) as error:
            if says is None and code.alone(error):
                counts["code"] += 1
                continue
            refusal = str(error)
        counts["accepted" if refusal is None else "refused"] += 1
        # Scripts are laid over the model's keys: which component they mean is beyond a schema, which accepts what may be right.
        scripts = data["model"].get("scripts") if isinstance(data.get("model"), dict) else None
        beyond = isinstance(scripts, list) and refusal is not None
        if (says is None) != (refusal is None) and not beyond:
            yield f"{what}: schema: {says.message[:200] if says else 'fine'}; loader: {refusal or 'fine'}"


def test_schema_and_loader_agree(schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the recipes as they are, and on every mutation, but for what only code can tell."""
    for base in bases().values():
        assert Strict(schema).is_valid(base)
        recipe_in(json.dumps(base, indent=1))
    counts: Counter[str] = Counter()
    assert list(disagreements(schema, Code(monkeypatch), counts, [*bases().values()])) == []
    print(counts)
    assert counts["accepted"] > 150
    assert counts["refused"] > 500
    assert counts["code"] < 100


LOOSENED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a required key": lambda definitions: definitions["recipe"]["properties"]["train"]["required"].remove("steps"),
    "a bound": lambda definitions: definitions["recipe"]["properties"]["model"]["properties"]["width"].pop("minimum"),
    "unknown keys": lambda definitions: definitions["body.lines_of_code"].pop("additionalProperties"),
}


@pytest.mark.parametrize("name", LOOSENED)
def test_a_looser_schema_is_found_out(schema: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail."""
    looser = copy.deepcopy(schema)
    LOOSENED[name](looser["$defs"])
    assert next(disagreements(looser, Code(monkeypatch), Counter(), [bases()["small"]]), None) is not None


def test_it_is_a_schema(schema: dict[str, Any]) -> None:
    """And every shipped recipe, those that extend others too, is valid by it; one that extends may leave all else out."""
    Draft202012Validator.check_schema(schema)
    for path in RECIPES.rglob("*.yaml"):
        assert list(Strict(schema).iter_errors(yaml.safe_load(path.read_text()))) == [], path
    assert Strict(schema).is_valid({"extends": "digits.yaml", "model": {"router": {"truncation": 1.0}}})
    for wrong in (
        {"extends": "/digits.yaml"},
        {"extends": ""},
        {"extends": "a", "modle": {}},
        {"extends": "a", "seed": "1"},
    ):
        assert not Strict(schema).is_valid(wrong)


def test_it_tells_an_editor_what_it_knows(schema: dict[str, Any]) -> None:
    """Help, defaults, and what a component is."""
    definitions = schema["$defs"]
    truncation = definitions["router.kernel"]["properties"]["truncation"]
    assert truncation["description"].startswith("distance")
    assert (truncation["default"], truncation["exclusiveMinimum"]) == (1.42, 0)
    assert definitions["router.kernel"]["description"].endswith(".")
    assert definitions["recipe"]["properties"]["train"]["properties"]["skip"]["default"] == {
        "spike": 10.0,
        "budget": 10,
    }
