"""The JSON Schema of recipes and the loader accept and refuse the same."""

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

from ni_framework.options import Choice, component, config, option
from ni_framework.recipe import Resolve
from ni_framework.recipe.export.json_schema import json_schema
from ni_framework.registry.catalog import installed
from ni_framework.registry.resolve import config_of
from ni_framework.registry.schema import installed_schema
from tests.helpers.recipe_components import CONFIGS, VALID, resolve
from tests.helpers.recipe_mutations import mutated
from tests.helpers.schema_agreement import Case, Validator, disagreement, judge

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))
NESTED = """\
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
  - {router: always_open, body: {heads: 2, linear: {use: plain}}, temporary: 2}
data: {use: multitask, tasks: {one: digits, two: {use: idx, classes: 10}, three: {use: npz, file: a.npz, classes: 3}}}
train:
  steps: 10
  batch: 12
  accumulate: 3
  clip: null
  schedule: cosine
  skip: {spike: null}
  average: 0.9
  evaluate_every: 5
  optimizer: {betas: [0.8, 0.9]}
engine: local
"""
EXTENDING = """\
extends: nested.yaml
model:
  input: {entities: 5}
  router: {inner: {size: 4}}
  scripts: [{body: {lines: 2}}, {router: {use: quantised, size: 3}}, {}]
data: {tasks: {two: digits, four: {use: digits}}}
train: {schedule: {warmup: 0.2}, skip: {budget: 3}}
"""
ZERO = """\
extends: nested.yaml
engine:
  use: zero
  stage: 3
  offload: nvme
  nvme: /fast
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
STANDARD = {
    **{str(path.relative_to(RECIPES)): path.read_text(encoding="utf-8") for path in SHIPPED},
    "nested.yaml": NESTED,
    "extending.yaml": EXTENDING,
    "zero.yaml": ZERO,
}
SMALL = {"valid.yaml": VALID, "all_types.yaml": ALL_TYPES}
EACH = 108  # mutations of a recipe


def small_schema() -> dict[str, Any]:
    """The schema of the tests' own components, which have options of every type."""
    return json_schema(_described(CONFIGS))


def _described(configs: Mapping[str, Mapping[str, type]]) -> dict[str, dict[str, tuple[type, str]]]:
    return {kind: {name: (cls, "") for name, cls in named.items()} for kind, named in configs.items()}


def cases_of(recipes: Mapping[str, str], resolve: Resolve, names: list[str], folder: Path) -> list[Case]:
    """The recipes and mutations of each, as the loader judges them."""
    for name, text in recipes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    cases = []
    for name, text in recipes.items():
        data, here = yaml.safe_load(text), (folder / name).parent  # where `extends` looks
        cases.append(judge(data, resolve, here))
        assert not cases[-1].problem, f"{name}: {cases[-1].problem}"
        cases += [judge(mutated(data, names, f"{name} {n}"), resolve, here) for n in range(EACH)]
    return cases


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """With the installed components."""
    names = sorted({entry.name for entry in installed().entries})
    return cases_of(STANDARD, config_of, names, tmp_path_factory.mktemp("standard"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """With the tests' own components."""
    names = sorted({name for named in CONFIGS.values() for name in named})
    return cases_of(SMALL, resolve, names, tmp_path_factory.mktemp("small"))


def differences(schema: dict[str, Any], cases: list[Case]) -> list[str]:
    """How a schema and the loader differ, the shortest first."""
    validator = Validator(schema)
    return sorted(filter(None, (disagreement(validator, case) for case in cases)), key=len)


def test_schema_and_loader_agree(standard: list[Case], small: list[Case]) -> None:
    """On more than 1,000 recipes; both accept many and refuse many, and few are left out."""
    for schema, cases in ((installed_schema()[0], standard), (small_schema(), small)):
        found = differences(schema, cases)
        assert not found, f"{len(found)} of {len(cases)} differ; the shortest:\n{found[0]}"
    asked = [case for case in [*standard, *small] if not case.outside]
    accepted = sum(not case.problem for case in asked)
    assert len(asked) > 1000
    assert accepted > 200
    assert len(asked) - accepted > 500
    assert any(case.rule and not case.problem for case in asked), "no rule of a config's own code was met"
    assert len(asked) > 0.9 * len([*standard, *small])


def _drop(schema: dict[str, Any], word: str, *path: str | int) -> None:
    inside: Any = schema["$defs"]
    for step in path:
        inside = inside[step]
    del inside[word]


WEAKER: dict[str, tuple[str | int, ...]] = {
    "a bound": ("minimum", "recipe", "properties", "train", "properties", "steps"),
    "a bound of a component": ("exclusiveMinimum", "router.kernel", "properties", "truncation"),
    "required keys": ("required", "recipe", "properties", "train"),
    "required options": ("required", "input.patches"),
    "unknown keys": ("additionalProperties", "linear.modlin"),
    "the path of extends": ("type", "recipe.partial", "properties", "extends"),
    "keys over another recipe": ("additionalProperties", "recipe.partial"),
}


@pytest.mark.parametrize("name", WEAKER)
def test_the_comparison_sees_a_weaker_schema(name: str, standard: list[Case]) -> None:
    """With one rule fewer, schema and loader differ: the test above can fail."""
    schema = json.loads(json.dumps(installed_schema()[0]))  # parts that are shared come apart
    word, *path = WEAKER[name]
    _drop(schema, str(word), *path)
    found = differences(schema, [case for case in standard if case.problem])
    assert found
    assert found[0].startswith("the schema accepts, the loader refuses: ")


SCRIPTS: dict[str, tuple[list[Any], bool]] = {
    "nothing differs": ([{}, {}], True),
    "options alone, of the model's router": ([{"router": {"keep": 0.7}}], True),
    "another component": ([{"router": "always_open"}], True),
    "no script": ([], False),
    "no mapping": ([1], False),
    "an unknown key": ([{"functoins": 3}], False),
    "a key of the model": ([{"width": 8}], False),
    "a bound": ([{"temporary": -1}], False),
    "a type": ([{"functions": 2.0}], False),
    "an option of no router": ([{"router": {"kep": 0.7}}], False),
    "a bound of a component": ([{"router": {"use": "kernel", "truncation": 0}}], False),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name: str, tmp_path: Path) -> None:
    """As they stand: the comparison above completes them first, which would hide a schema that accepts too much."""
    data = yaml.safe_load(NESTED)
    data["model"]["scripts"], right = SCRIPTS[name]
    assert (judge(data, config_of, tmp_path).problem is None) == right
    assert Validator(installed_schema()[0]).is_valid(data) == right


def test_the_comparison_sees_a_stricter_schema(standard: list[Case]) -> None:
    """A default component whose name must be given, for one."""
    schema = copy.deepcopy(installed_schema()[0])
    schema["$defs"]["router.or.kernel"]["else"]["required"] = ["use"]
    found = differences(schema, [case for case in standard if not case.problem])
    assert found
    assert all("the schema refuses" in difference for difference in found)


def test_the_schema_is_one() -> None:
    """Of draft 2020-12, and for validators that do not tell 1 from 1.0, too: every shipped recipe passes."""
    for schema in (installed_schema()[0], small_schema()):
        Draft202012Validator.check_schema(schema)
    schema, faults = installed_schema()
    assert not faults
    for path in SHIPPED:
        Draft202012Validator(schema).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_messages_of_a_validator_are_about_the_component_that_is_named() -> None:
    """One message that names the key, rather than one for each component there is."""
    validator = Draft202012Validator(installed_schema()[0])
    data = yaml.safe_load(NESTED)
    data["model"]["router"]["inner"]["trunaction"] = 1
    data["model"]["input"]["entities"] = 0
    assert sorted(error.message for error in validator.iter_errors(data)) == [
        "0 is less than the minimum of 1",
        "Additional properties are not allowed ('trunaction' was unexpected)",
    ]


@config
class Asks:
    """A router whose default inner router asks for another, for ever."""

    inner: Choice = component("router", default="asks", help="a router")


@config
class Needs:
    """A router with a default that needs an option, and one that nobody provides."""

    head: Choice = component("head", default="sized", help="a head")
    gone: Choice = component("head", default="gone", help="another head")


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
def test_defaults_that_cannot_stand_alone(router: Any, tmp_path: Path) -> None:
    """A default component that needs options, is not installed or never ends has to be given: to both sides."""
    routers, heads = {"asks": Asks, "needs": Needs}, {"sized": Sized}
    known = {**CONFIGS, "router": CONFIGS["router"] | routers, "head": CONFIGS["head"] | heads}

    def find(kind: str, name: str) -> type:
        return known[kind][name] if name in known[kind] else resolve(kind, name)

    data = yaml.safe_load(VALID)
    data["model"]["router"] = router
    case = judge(data, find, tmp_path)
    found = disagreement(Validator(json_schema(_described(known))), case)
    assert found is None, found


@config
class Made:
    """A head whose default is made anew each time, which no schema can show."""

    sizes: tuple[int, ...] = option(default=attrs.Factory(tuple), help="its sizes")


def test_what_a_plugin_may_do_leaves_a_schema() -> None:
    """A kind without components, and a default that is no value."""
    schema = json_schema(_described(CONFIGS | {"head": {}}))
    Draft202012Validator.check_schema(schema)
    assert not Validator(schema).is_valid(yaml.safe_load(VALID) | {"extends": "a.yaml", "model": {"head": "classify"}})
    schema = json_schema(_described(CONFIGS | {"head": {"made": Made}}))
    assert schema["$defs"]["head.made"]["properties"]["sizes"] == {
        "description": "its sizes", "type": "array", "items": {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1}
    }  # fmt: skip
    json.dumps(schema, allow_nan=False)


@pytest.mark.parametrize("key", ["a", "a b", "", "<<", "x" * 100, "x" * 101, "a\nb", "a\n", "\x7f"])
def test_keys_that_a_recipe_chooses(key: str, tmp_path: Path) -> None:
    """Have the loader's limits."""
    data = yaml.safe_load(VALID)
    data["data"] = {"use": "folder", "parts": [], "table": {key: 1.0}}
    case = judge(data, resolve, tmp_path)
    assert (case.problem is None) == (key in ("a", "a b", "x" * 100))
    assert disagreement(Validator(small_schema()), case) is None


def test_it_tells_an_editor_what_it_knows() -> None:
    """Help, defaults, and what a component is."""
    definitions = installed_schema()[0]["$defs"]
    truncation = definitions["router.kernel"]["properties"]["truncation"]
    assert truncation["description"].startswith("distance")
    assert (truncation["default"], truncation["exclusiveMinimum"]) == (1.42, 0)
    assert definitions["router.kernel"]["description"].endswith(".")
    assert definitions["recipe"]["properties"]["train"]["properties"]["skip"]["default"] == {
        "spike": 10.0,
        "budget": 10,
    }
