"""The JSON Schema of recipes and the loader accept and reject the same recipes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from jsonschema import Draft202012Validator

from ni_framework.options import ComponentSpec, component_option, config, option
from ni_framework.recipe import ConfigResolver
from ni_framework.recipe.export.json_schema import build_json_schema
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.resolve import resolve_config
from ni_framework.registry.schema import installed_schema
from tests.helpers.recipe_components import COMPONENT_CONFIGS, VALID_RECIPE, resolve_component
from tests.helpers.recipe_mutations import mutate_recipe
from tests.helpers.schema_agreement import JudgedRecipe, Validator, describe_disagreement, judge_recipe

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED_RECIPES = sorted(RECIPES.rglob("*.yaml"))
NESTED_RECIPE = """\
ni: 1
requires: []
model:
  width: 8
  input: {use: entities, entities: 4, features: 3}
  iterations: 2
  functions: 3
  code: 4
  type: 4
  embedding: consolidated
  router: {use: function_dropout, keep: 0.5, inner: {use: quantised, size: 8, inner: {truncation: 1.0}}}
  body: {linear: gated}
  head: {label_smoothing: 0.1}
  scripts:
  - {}
  - {iterations: 3, router: {keep: 0.7, inner: {inner: {use: gumbel_kernel}}}}
  - {router: always_open, body: {heads: 2, linear: {use: plain}}, registers: 2}
data: {use: multitask, tasks: {one: digits, two: {use: idx, classes: 10}, three: {use: npz, file: a.npz, classes: 3}}}
train:
  steps: 10
  batch: 12
  micro_batches: 3
  max_grad_norm: null
  schedule: cosine
  skip: {max_deviation: null}
  ema_decay: 0.9
  evaluate_every: 5
  optimizer: {betas: [0.8, 0.9]}
engine: local
"""
EXTENDING_RECIPE = """\
extends: nested.yaml
model:
  input: {entities: 5}
  router: {inner: {size: 4}}
  scripts: [{body: {lines: 2}}, {router: {use: quantised, size: 3}}, {}]
data: {tasks: {two: digits, four: {use: digits}}}
train: {schedule: {warmup: 0.2}, skip: {max_consecutive: 3}}
"""
ZERO_RECIPE = """\
extends: nested.yaml
engine:
  use: zero
  stage: 3
  offload: nvme
  nvme_dir: /fast
  deepspeed:
    communication_data_type: bf16
    zero_optimization: {reduce_bucket_size: 1000, offload_param: {pin_memory: false}, stage3_max_reuse_distance: 0}
    comms_logger: {enabled: true, verbose: true, prof_all: false, prof_ops: [all_reduce]}
    flops_profiler: {enabled: false, recompute_fwd_factor: 0.5}
    timers: {throughput: {enabled: false}}
    aio: {}
"""
ALL_TYPES = """\
ni: 1
model:
  width: 64
  iterations: 4
  functions: 5
  code: 64
  type: 16
  input:
    use: everything
    flag: false
    word: plain
    mode: slow
    maybe: 3
    either: 1
    text_or_number: 2
    numbers: [1, 2.5]
    pairs: [[1, one], [2, two]]
    table: {a: 1.5}
    nested: {depth: 1}
    parts: [modlin, {use: lowrank, depth: 3}, lowrank]
  router: {use: top_k, k: 2, hard: true}
  type_inference: mlp
  scripts: [{router: {k: 3}}, {router: kernel}]
data: digits
train: {steps: 2000, batch: 64}
"""
STANDARD_RECIPES = {
    **{str(path.relative_to(RECIPES)): path.read_text(encoding="utf-8") for path in SHIPPED_RECIPES},
    "nested.yaml": NESTED_RECIPE,
    "extending.yaml": EXTENDING_RECIPE,
    "zero.yaml": ZERO_RECIPE,
}
OWN_RECIPES = {"valid.yaml": VALID_RECIPE, "all_types.yaml": ALL_TYPES}
MUTATIONS_PER_RECIPE = 108


def own_components_schema() -> dict[str, Any]:
    """The schema of the tests' own components, which have options of every type."""
    return build_json_schema(_describe_configs(COMPONENT_CONFIGS))


def _describe_configs(configs: Mapping[str, Mapping[str, type]]) -> dict[str, dict[str, tuple[type, str]]]:
    return {kind: {name: (cls, "") for name, cls in classes.items()} for kind, classes in configs.items()}


def judge_all(
    recipes: Mapping[str, str], resolve: ConfigResolver, names: list[str], folder: Path
) -> list[JudgedRecipe]:
    """The recipes and mutations of each, with the result of the loader."""
    for name, text in recipes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    cases = []
    for name, text in recipes.items():
        data = yaml.safe_load(text)
        recipe_folder = (folder / name).parent  # `extends` is relative to it.
        cases.append(judge_recipe(data, resolve, recipe_folder))
        assert not cases[-1].problem, f"{name}: {cases[-1].problem}"
        cases += [
            judge_recipe(mutate_recipe(data, names, f"{name} {n}"), resolve, recipe_folder)
            for n in range(MUTATIONS_PER_RECIPE)
        ]
    return cases


@pytest.fixture(scope="module")
def standard_cases(tmp_path_factory: pytest.TempPathFactory) -> list[JudgedRecipe]:
    """Recipes with the installed components."""
    names = sorted({entry.name for entry in installed_catalog().entries})
    return judge_all(STANDARD_RECIPES, resolve_config, names, tmp_path_factory.mktemp("standard"))


@pytest.fixture(scope="module")
def option_type_cases(tmp_path_factory: pytest.TempPathFactory) -> list[JudgedRecipe]:
    """Recipes with the tests' own components."""
    names = sorted({name for classes in COMPONENT_CONFIGS.values() for name in classes})
    return judge_all(OWN_RECIPES, resolve_component, names, tmp_path_factory.mktemp("small"))


def schema_disagreements(schema: dict[str, Any], cases: list[JudgedRecipe]) -> list[str]:
    """The differences between a schema and the loader, the shortest first."""
    validator = Validator(schema)
    return sorted(filter(None, (describe_disagreement(validator, case) for case in cases)), key=len)


def test_schema_and_loader_agree(standard_cases: list[JudgedRecipe], option_type_cases: list[JudgedRecipe]) -> None:
    """On more than 1,000 recipes, of which both accept many and reject many; only a few cases are not comparable."""
    for schema, cases in ((installed_schema()[0], standard_cases), (own_components_schema(), option_type_cases)):
        differences = schema_disagreements(schema, cases)
        assert not differences, f"{len(differences)} of {len(cases)} differ; the shortest:\n{differences[0]}"
    comparable = [case for case in [*standard_cases, *option_type_cases] if not case.unsupported]
    accepted = sum(not case.problem for case in comparable)
    assert len(comparable) > 1000
    assert accepted > 200
    assert len(comparable) - accepted > 500
    assert any(case.from_config_code and not case.problem for case in comparable), "no config class rejected a value"
    assert len(comparable) > 0.9 * len([*standard_cases, *option_type_cases])


def _remove_keyword(schema: dict[str, Any], keyword: str, *path: str | int) -> None:
    part: Any = schema["$defs"]
    for step in path:
        part = part[step]
    del part[keyword]


WEAKENED_KEYWORDS: dict[str, tuple[str | int, ...]] = {
    "a bound": ("minimum", "recipe", "properties", "train", "properties", "steps"),
    "a bound of a component": ("exclusiveMinimum", "router.kernel", "properties", "truncation"),
    "required keys": ("required", "recipe", "properties", "train"),
    "required options": ("required", "input.patches"),
    "unknown keys": ("additionalProperties", "linear.modlin"),
    "the path of extends": ("type", "recipe.partial", "properties", "extends"),
    "keys over another recipe": ("additionalProperties", "recipe.partial"),
}


@pytest.mark.parametrize("name", WEAKENED_KEYWORDS)
def test_the_comparison_detects_a_weaker_schema(name: str, standard_cases: list[JudgedRecipe]) -> None:
    """Without one keyword, schema and loader differ: the test above can fail."""
    schema = json.loads(json.dumps(installed_schema()[0]))  # A copy without shared objects.
    keyword, *path = WEAKENED_KEYWORDS[name]
    _remove_keyword(schema, str(keyword), *path)
    differences = schema_disagreements(schema, [case for case in standard_cases if case.problem])
    assert differences
    assert differences[0].startswith("the schema accepts, the loader rejects: ")


SCRIPTS: dict[str, tuple[list[Any], bool]] = {
    "nothing differs": ([{}, {}], True),
    "options alone, of the model's router": ([{"router": {"keep": 0.7}}], True),
    "another component": ([{"router": "always_open"}], True),
    "an empty list": ([], False),
    "a number": ([1], False),
    "an unknown key": ([{"functoins": 3}], False),
    "a key of the model": ([{"width": 8}], False),
    "a bound": ([{"registers": -1}], False),
    "a type": ([{"functions": 2.0}], False),
    "an unknown option of a router": ([{"router": {"kep": 0.7}}], False),
    "a bound of a component": ([{"router": {"use": "kernel", "truncation": 0}}], False),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name: str, tmp_path: Path) -> None:
    """As written; the comparison above completes the scripts first, which could hide a schema that accepts too much."""
    data = yaml.safe_load(NESTED_RECIPE)
    data["model"]["scripts"], is_valid = SCRIPTS[name]
    assert (judge_recipe(data, resolve_config, tmp_path).problem is None) == is_valid
    assert Validator(installed_schema()[0]).is_valid(data) == is_valid


def test_the_comparison_detects_a_stricter_schema(standard_cases: list[JudgedRecipe]) -> None:
    """One that requires `use` although there is a default component."""
    schema = copy.deepcopy(installed_schema()[0])
    schema["$defs"]["router.or.kernel"]["else"]["required"] = ["use"]
    differences = schema_disagreements(schema, [case for case in standard_cases if not case.problem])
    assert differences
    assert all("the schema rejects" in difference for difference in differences)


def test_the_schema_is_valid() -> None:
    """It is a schema of draft 2020-12, and accepts all shipped recipes, also for validators that treat 1.0 as 1."""
    for schema in (installed_schema()[0], own_components_schema()):
        Draft202012Validator.check_schema(schema)
    schema, faults = installed_schema()
    assert not faults
    for path in SHIPPED_RECIPES:
        Draft202012Validator(schema).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_messages_of_a_validator_concern_the_named_component() -> None:
    """There is one message that names the key, rather than one for each component."""
    validator = Draft202012Validator(installed_schema()[0])
    data = yaml.safe_load(NESTED_RECIPE)
    data["model"]["router"]["inner"]["trunaction"] = 1
    data["model"]["input"]["entities"] = 0
    assert sorted(error.message for error in validator.iter_errors(data)) == [
        "0 is less than the minimum of 1",
        "Additional properties are not allowed ('trunaction' was unexpected)",
    ]


@config
class EndlessRouter:
    """A router whose default inner router is again such a router, endlessly."""

    inner: ComponentSpec = component_option("router", default="asks", help="a router")


@config
class NeedsOption:
    """A router with a default component that needs an option, and one that is not installed."""

    head: ComponentSpec = component_option("head", default="sized", help="a head")
    gone: ComponentSpec = component_option("head", default="gone", help="another head")


@config
class Sized:
    """A head with a required option."""

    size: int = option(help="its size", ge=1)


@pytest.mark.parametrize(
    "router",
    [
        "asks", "needs", "kernel", {}, {"use": "asks"}, {"inner": "kernel"}, {"use": "asks", "inner": "kernel"},
        {"use": "asks", "inner": {"inner": "kernel"}}, {"use": "needs"}, {"use": "needs", "head": {"size": 1}},
        {"use": "needs", "gone": "classify"}, {"use": "needs", "head": {"size": 1}, "gone": "classify"},
        {"use": "needs", "head": "sized", "gone": "classify"}, {"use": "needs", "head": {}, "gone": "classify"},
        {"use": "needs", "head": "classify", "gone": {}}, {"use": "needs", "head": "classify", "gone": "classify"},
    ],
    ids=str,
)  # fmt: skip
def test_unusable_default_components_are_required(router: Any, tmp_path: Path) -> None:
    """A default component that needs options, is not installed or is endless; schema and loader agree."""
    routers, heads = {"asks": EndlessRouter, "needs": NeedsOption}, {"sized": Sized}
    known = {
        **COMPONENT_CONFIGS,
        "router": COMPONENT_CONFIGS["router"] | routers,
        "head": COMPONENT_CONFIGS["head"] | heads,
    }

    def resolve(kind: str, name: str) -> type:
        return known[kind][name] if name in known[kind] else resolve_component(kind, name)

    data = yaml.safe_load(VALID_RECIPE)
    data["model"]["router"] = router
    case = judge_recipe(data, resolve, tmp_path)
    difference = describe_disagreement(Validator(build_json_schema(_describe_configs(known))), case)
    assert difference is None, difference


@config
class FactoryDefault:
    """A head whose default is made by a factory, which a schema cannot show."""

    sizes: tuple[int, ...] = option(default=attrs.Factory(tuple), help="its sizes")


def test_the_schema_of_unusual_components_is_valid() -> None:
    """Of a kind without components, and of a default that is not a value."""
    schema = build_json_schema(_describe_configs(COMPONENT_CONFIGS | {"head": {}}))
    Draft202012Validator.check_schema(schema)
    assert not Validator(schema).is_valid(
        yaml.safe_load(VALID_RECIPE) | {"extends": "a.yaml", "model": {"head": "classify"}}
    )
    schema = build_json_schema(_describe_configs(COMPONENT_CONFIGS | {"head": {"made": FactoryDefault}}))
    assert schema["$defs"]["head.made"]["properties"]["sizes"] == {
        "description": "its sizes", "type": "array", "items": {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1}
    }  # fmt: skip
    json.dumps(schema, allow_nan=False)


@pytest.mark.parametrize("key", ["a", "a b", "", "<<", "x" * 100, "x" * 101, "a\nb", "a\n", "\x7f"])
def test_limits_of_keys_in_open_mappings(key: str, tmp_path: Path) -> None:
    """The schema has the same limits as the loader."""
    data = yaml.safe_load(VALID_RECIPE)
    data["data"] = {"use": "folder", "parts": [], "table": {key: 1.0}}
    case = judge_recipe(data, resolve_component, tmp_path)
    assert (case.problem is None) == (key in ("a", "a b", "x" * 100))
    assert describe_disagreement(Validator(own_components_schema()), case) is None


def test_the_schema_contains_help_and_defaults() -> None:
    """And a sentence about each component, for editors."""
    definitions = installed_schema()[0]["$defs"]
    truncation = definitions["router.kernel"]["properties"]["truncation"]
    assert truncation["description"].startswith("distance")
    assert truncation["default"] == 1.42
    assert truncation["exclusiveMinimum"] == 0
    assert definitions["router.kernel"]["description"].endswith(".")
    assert definitions["recipe"]["properties"]["train"]["properties"]["skip"]["default"] == {
        "max_deviation": 10.0,
        "max_consecutive": 10,
    }
