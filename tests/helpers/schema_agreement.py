"""What the loader and a JSON Schema say about the same recipe, in a form in which the two can be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from ni_framework.errors import PluginError, Problem, RecipeError
from ni_framework.recipe import Recipe, Resolve, Script, load
from ni_framework.recipe.parsing.nodes import ListNode, MappingNode, Node, ScalarNode
from ni_framework.recipe.parsing.parser import Budget
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.resolve.extends import read_files
from ni_framework.recipe.resolve.schema_hints import Outline
from ni_framework.recipe.resolve.scripts import complete
from ni_framework.recipe.validate.fields import fields_of
from ni_framework.recipe.validate.structure import Structure


def _is_number(_: object, value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


# The loader tells 1 from 1.0 and from true, and knows infinity; JSON has but one kind of number and no infinity. So that
# this difference of the two notations is not taken for one of their rules, numbers here are what they are in Python.
_types = Draft202012Validator.TYPE_CHECKER.redefine_many(
    {"integer": lambda _, value: type(value) is int, "number": _is_number}
)
Validator = extend(Draft202012Validator, type_checker=_types)


@attrs.frozen
class Case:
    """One recipe, as the loader judges it."""

    data: Any
    wholes: tuple[Any, ...]  # the recipe without `extends` and lists of scripts, once for each set of a script's keys
    problem: Problem | None  # the first that is no rule of a config's own code; None where the loader accepts
    rule: bool  # whether a config's own code objects
    outside: str | None  # why neither side is to be asked: what is wrong lies outside of the recipe's values


def judge(data: Any, resolve: Resolve, folder: Path) -> Case:
    """Asks the loader, which reads the recipe as text; recipes that it extends lie in the folder."""
    path = folder / "recipe.yaml"
    path.write_text(text_of(data), encoding="utf-8")
    problem: Problem | None = None
    with _rules() as rules:
        try:
            load(path, resolve=resolve)
        except (RecipeError, PluginError) as error:
            problem = next((problem for problem in error.problems if problem not in rules), None)
    return Case(data, _wholes(data, path, resolve), problem, bool(rules), _outside(data, problem))


def text_of(data: Any) -> str:
    """A recipe as YAML in which every text is quoted: to PyYAML, an older YAML, `1e-3` would need no quotes."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    return text.replace("Infinity", ".inf").replace("NaN", ".nan")


def disagreement(schema: Draft202012Validator, case: Case) -> str | None:
    """How the schema and the loader differ about a recipe, None where they agree."""
    if case.outside:
        return None
    error = next(schema.iter_errors(case.data), None)
    if error and not case.problem:
        return f"the schema refuses, the loader accepts: {error.json_path}: {error.message}\n{text_of(case.data)}"
    # Without what it inherits a recipe may pass; with it, the schema has to see what the loader sees.
    error = error or next((error for whole in case.wholes for error in schema.iter_errors(whole)), None)
    if error and not case.problem:
        return f"complete, the schema refuses: {error.json_path}: {error.message}\n{text_of(case.data)}"
    if case.problem and not error:
        return f"the schema accepts, the loader refuses: {case.problem}\n{text_of(case.data)}"
    return None


@contextmanager
def _rules() -> Iterator[list[Problem]]:
    """The problems that come from the code of configs: those, and only those, that `Structure.build` notes."""
    noted: list[Problem] = []
    build = Structure.build

    def listening(self: Structure, *arguments: Any) -> Any:
        before = len(self.problems.recipe), len(self.problems.plugin)
        value = build(self, *arguments)
        noted.extend([*self.problems.recipe[before[0] :], *self.problems.plugin[before[1] :]])
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Structure, "build", listening)
        yield noted


def _outside(data: Any, problem: Problem | None) -> str | None:
    said = problem.message if problem and isinstance(data.get("extends"), str) else ""
    if said.startswith("extends: ") and not said.startswith("extends: must be"):
        return "a file that is not there"
    return "a number beyond 64 bits" if _has_vast(data) else None


def _has_vast(data: Any) -> bool:
    if isinstance(data, dict | list):
        return any(map(_has_vast, data.values() if isinstance(data, dict) else data))
    return type(data) is int and not -(2**63) <= data < 2**64


def _plain(node: Node) -> Any:
    if isinstance(node, MappingNode):
        return {key: _plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, ListNode):
        return [_plain(item) for item in node.items]
    return node.value if isinstance(node, ScalarNode) else "broken"


def _wholes(data: Any, path: Path, resolve: Resolve) -> tuple[Any, ...]:
    if "extends" not in data and not _scripts(data):
        return ()
    problems = Problems()
    try:
        tree = read_files(str(path), problems, Budget(), Outline(Recipe, None, resolve))
    except RecipeError:
        return ()
    whole = _plain(complete(tree, problems, resolve))
    scripts = _scripts(whole)
    if not scripts or not all(isinstance(script, dict) for script in scripts):
        return (whole,)
    own = fields_of(Script)
    # A script may not have the keys that only the model has; among the model's own keys this must show.
    marked = [{key if key in own else f"{key}!": script[key] for key in script} for script in scripts]
    return tuple({**whole, "model": {**whole["model"], **script, "scripts": 1}} for script in [{}, *marked])


def _scripts(data: Any) -> list[Any]:
    model = data.get("model")
    scripts = model.get("scripts") if isinstance(model, dict) else None
    return scripts if isinstance(scripts, list) else []
