"""Judges the same recipe with the loader and with a JSON Schema, and compares the results."""

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
from ni_framework.recipe import ConfigResolver, Recipe, ScriptConfig, load
from ni_framework.recipe.parsing.nodes import ListNode, MappingNode, Node, ScalarNode
from ni_framework.recipe.parsing.parser import NodeBudget
from ni_framework.recipe.parsing.problems import Problems
from ni_framework.recipe.resolve.extends import read_files
from ni_framework.recipe.resolve.schema_hints import SchemaHint
from ni_framework.recipe.resolve.scripts import complete_scripts
from ni_framework.recipe.validate.fields import fields_of
from ni_framework.recipe.validate.structure import StructureReader


def _is_number(_: object, value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


# The loader distinguishes 1 from 1.0 and from true, and accepts infinity in YAML; JSON has one kind of number and no infinity.
# So that these differences are not reported, numbers have the types here that they have in Python.
_types = Draft202012Validator.TYPE_CHECKER.redefine_many(
    {"integer": lambda _, value: type(value) is int, "number": _is_number}
)
Validator = extend(Draft202012Validator, type_checker=_types)


@attrs.frozen
class JudgedRecipe:
    """One recipe, with the result of the loader."""

    data: Any
    # The recipe without `extends` and without a list of scripts, once with the keys of each script.
    resolved_layers: tuple[Any, ...]
    # The first problem that is not from the code of a config class; None if the loader accepts the recipe.
    problem: Problem | None
    # Whether the code of a config class rejects the recipe.
    from_config_code: bool
    # Why the recipe cannot be compared: the problem is not in its values.
    unsupported: str | None


def judge_recipe(data: Any, resolve: ConfigResolver, folder: Path) -> JudgedRecipe:
    """Reads a recipe with the loader.

    Args:
        data: The recipe as parsed YAML.
        resolve: Gives the config class of a component.
        folder: Where the recipe is written, and where the recipes are that it extends.
    """
    path = folder / "recipe.yaml"
    path.write_text(to_quoted_yaml(data), encoding="utf-8")
    problem: Problem | None = None
    with _collect_config_problems() as config_problems:
        try:
            load(path, resolve=resolve)
        except (RecipeError, PluginError) as error:
            problem = next((problem for problem in error.problems if problem not in config_problems), None)
    layers = _resolved_layers(data, path, resolve)
    return JudgedRecipe(data, layers, problem, bool(config_problems), _reason_unsupported(data, problem))


def to_quoted_yaml(data: Any) -> str:
    """A recipe as YAML with quotes around every text. PyYAML reads YAML 1.1, so its dump would not quote `1e-3`."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    return text.replace("Infinity", ".inf").replace("NaN", ".nan")


def describe_disagreement(schema: Draft202012Validator, case: JudgedRecipe) -> str | None:
    """How the results of the schema and of the loader differ; None if they agree."""
    if case.unsupported:
        return None
    error = next(schema.iter_errors(case.data), None)
    if error and not case.problem:
        return (
            f"the schema rejects, the loader accepts: {error.json_path}: {error.message}\n{to_quoted_yaml(case.data)}"
        )
    # A problem may only exist together with inherited values, which the schema gets here.
    error = error or next((error for layer in case.resolved_layers for error in schema.iter_errors(layer)), None)
    if error and not case.problem:
        return f"when complete, the schema rejects: {error.json_path}: {error.message}\n{to_quoted_yaml(case.data)}"
    if case.problem and not error:
        return f"the schema accepts, the loader rejects: {case.problem}\n{to_quoted_yaml(case.data)}"
    return None


@contextmanager
def _collect_config_problems() -> Iterator[list[Problem]]:
    """Collects the problems from the code of config classes: those that `StructureReader.build` records."""
    collected: list[Problem] = []
    build = StructureReader.build

    def build_and_collect(self: StructureReader, *arguments: Any) -> Any:
        before = len(self.problems.recipe_problems), len(self.problems.plugin_problems)
        value = build(self, *arguments)
        collected.extend([*self.problems.recipe_problems[before[0] :], *self.problems.plugin_problems[before[1] :]])
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StructureReader, "build", build_and_collect)
        yield collected


def _reason_unsupported(data: Any, problem: Problem | None) -> str | None:
    message = problem.message if problem and isinstance(data.get("extends"), str) else ""
    if message.startswith("extends: ") and not message.startswith("extends: must be"):
        return "a file that does not exist"
    return "a number beyond 64 bits" if _has_huge_number(data) else None


def _has_huge_number(data: Any) -> bool:
    if isinstance(data, dict | list):
        return any(map(_has_huge_number, data.values() if isinstance(data, dict) else data))
    return type(data) is int and not -(2**63) <= data < 2**64


def _to_plain(node: Node) -> Any:
    if isinstance(node, MappingNode):
        return {key: _to_plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, ListNode):
        return [_to_plain(item) for item in node.items]
    return node.value if isinstance(node, ScalarNode) else "broken"


def _resolved_layers(data: Any, path: Path, resolve: ConfigResolver) -> tuple[Any, ...]:
    if "extends" not in data and not _script_layers(data):
        return ()
    problems = Problems()
    try:
        tree = read_files(str(path), problems, NodeBudget(), SchemaHint(Recipe, None, resolve))
    except RecipeError:
        return ()
    complete = _to_plain(complete_scripts(tree, problems, resolve))
    scripts = _script_layers(complete)
    if not scripts or not all(isinstance(script, dict) for script in scripts):
        return (complete,)
    script_keys = fields_of(ScriptConfig)
    # A script must not have keys that only the model has. They are marked, so that they stay wrong among the model's keys.
    marked = [{key if key in script_keys else f"{key}!": script[key] for key in script} for script in scripts]
    return tuple({**complete, "model": {**complete["model"], **script, "scripts": 1}} for script in [{}, *marked])


def _script_layers(data: Any) -> list[Any]:
    model = data.get("model")
    scripts = model.get("scripts") if isinstance(model, dict) else None
    return scripts if isinstance(scripts, list) else []
