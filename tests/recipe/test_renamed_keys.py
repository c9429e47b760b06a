"""Old names of keys: one problem with the new name, at the place of the key, and the advice leads to a valid recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ni_framework.errors import RecipeError
from ni_framework.recipe import Recipe, load, loads
from ni_framework.recipe.export.json_schema import build_json_schema
from ni_framework.recipe.export.starter import render_starter_recipe
from ni_framework.recipe.schema import (
    EngineConfig,
    ModelConfig,
    ScheduleConfig,
    ScriptConfig,
    SkipConfig,
    TrainConfig,
)
from tests.helpers.recipe_components import COMPONENT_CONFIGS, VALID_RECIPE, resolve_component

SECTION_CLASSES = {
    "model": ModelConfig,
    "train": TrainConfig,
    "train.schedule": ScheduleConfig,
    "train.skip": SkipConfig,
    "engine": EngineConfig,
}
# Old key path -> the new name, a value, and overrides without which the value would be rejected.
RENAMED_KEYS: dict[str, tuple[str, str, list[str]]] = {
    "model.temporary": ("registers", "2", []),
    "model.grown": ("added_functions", "[{functions: 3}]", []),
    "model.new_tasks": ("added_tasks", "[digits]", ["model.tasks={digits: 10}"]),
    "train.accumulate": ("micro_batches", "2", []),
    "train.clip": ("max_grad_norm", "0.5", []),
    "train.average": ("ema_decay", "0.99", []),
    "train.recompute": ("activation_checkpointing", "script", []),
    "train.learn": ("trainable", "[codes]", []),
    "train.skip.spike": ("max_deviation", "5.0", []),
    "train.skip.budget": ("max_consecutive", "3", []),
    "train.schedule.begin": ("start_step", "7", []),
    "engine.nvme": ("nvme_dir", "/fast", ["engine.use=zero", "engine.stage=3", "engine.offload=nvme"]),
}


def rename(path: str) -> str:
    """The key path with the new name."""
    return f"{path.rpartition('.')[0]}.{RENAMED_KEYS[path][0]}"


def to_override(path: str, value: str) -> str:
    return f"{path}={value}"


def to_recipe_text(path: str, value: str) -> str:
    """A recipe that extends `base.yaml` and sets one key."""
    keys = path.split(".")
    lines = [f"{'  ' * depth}{key}:" for depth, key in enumerate(keys)]
    return "extends: base.yaml\n" + "\n".join(lines) + f" {value}\n"


def read_value(recipe: Recipe, path: str) -> object:
    value: object = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_every_renamed_key_is_tested() -> None:
    tables = {f"{section}.{old}": new for section, cls in SECTION_CLASSES.items() for old, new in cls.RENAMED.items()}
    assert tables == {path: new for path, (new, _, _) in RENAMED_KEYS.items()}


@pytest.mark.parametrize("path", RENAMED_KEYS)
def test_old_key_in_an_override(path: str) -> None:
    new, value, others = RENAMED_KEYS[path]
    override = to_override(path, value)
    with pytest.raises(RecipeError) as caught:
        loads(VALID_RECIPE, [*others, override], resolve=resolve_component)
    assert str(caught.value) == (
        f"override '{override}': error: {path}: is now called {new}\n"
        f"    {override}\n"
        f"    {' ' * (path.rindex('.') + 1)}^\n"
        f"  help: write `{new}`"
    )
    recipe = loads(VALID_RECIPE, [*others, to_override(rename(path), value)], resolve=resolve_component)
    default = loads(VALID_RECIPE, others[:-1] if path == "engine.nvme" else others, resolve=resolve_component)
    assert read_value(recipe, rename(path)) != read_value(default, rename(path))


@pytest.mark.parametrize("path", RENAMED_KEYS)
def test_old_key_in_a_recipe(path: str, tmp_path: Path) -> None:
    new, value, others = RENAMED_KEYS[path]
    base = VALID_RECIPE
    if path == "engine.nvme":
        # Written in the recipe, because an override of `engine.use` would drop the other keys of `engine`.
        base, others = VALID_RECIPE + "engine: {use: zero, stage: 3, offload: nvme}\n", []
    (tmp_path / "base.yaml").write_text(base)
    file = tmp_path / "recipe.yaml"
    file.write_text(to_recipe_text(path, value))
    depth = path.count(".")
    indent = "  " * depth
    with pytest.raises(RecipeError) as caught:
        load(file, others, resolve=resolve_component)
    assert str(caught.value) == (
        f"{file}:{depth + 2}:{2 * depth + 1}: error: {path}: is now called {new}\n"
        f"    {indent}{path.rpartition('.')[2]}: {value}\n"
        f"    {indent}^\n"
        f"  help: write `{new}`"
    )
    file.write_text(to_recipe_text(rename(path), value))
    recipe = load(file, others, resolve=resolve_component)
    assert recipe.marks[rename(path)].source == str(file)


@pytest.mark.parametrize("old", ScriptConfig.RENAMED)
def test_old_key_in_a_script(old: str) -> None:
    """Scripts have the same old keys as the model."""
    new, value, _ = RENAMED_KEYS[f"model.{old}"]
    with pytest.raises(RecipeError) as caught:
        loads(VALID_RECIPE, [f"model.scripts=[{{}}, {{{old}: {value}}}]"], resolve=resolve_component)
    (problem,) = caught.value.problems
    assert problem.message == f"model.scripts.1.{old}: is now called {new}"
    assert problem.hint == f"write `{new}`"
    loads(VALID_RECIPE, [f"model.scripts=[{{}}, {{{new}: {value}}}]"], resolve=resolve_component)


def test_a_misspelt_old_key_leads_to_the_new_key() -> None:
    with pytest.raises(RecipeError, match="unknown key") as caught:
        loads(VALID_RECIPE, ["train.acumulate=2"], resolve=resolve_component)
    (problem,) = caught.value.problems
    assert problem.hint == "did you mean `accumulate`? It is now called micro_batches; write `micro_batches`"


def test_other_problems_are_reported_too() -> None:
    """An old key hides no problem of another key, and no problem of its own key under the new name."""
    with pytest.raises(RecipeError) as caught:
        loads(VALID_RECIPE, ["train.clip=1", "train.max_grad_norm=0", "train.steps=0"], resolve=resolve_component)
    assert [problem.message for problem in caught.value.problems] == [
        "train.clip: is now called max_grad_norm",
        "train.max_grad_norm: must be greater than 0, not 0.0",
        "train.steps: must be at least 1, not 0",
    ]


def test_old_keys_are_neither_in_the_schema_nor_in_the_starter_recipe() -> None:
    components = {kind: {name: (cls, "") for name, cls in named.items()} for kind, named in COMPONENT_CONFIGS.items()}
    definition = build_json_schema(components)["$defs"]["recipe"]
    starter = render_starter_recipe("recipe.yaml")
    for path, (new, _, _) in RENAMED_KEYS.items():
        section = definition
        for key in path.split(".")[:-1]:
            section = section["properties"][key]
            section = section["anyOf"][-1] if "anyOf" in section else section
        old = path.rpartition(".")[2]
        assert old not in section["properties"]
        assert new in section["properties"]
        assert not re.search(rf"^[ #]*{old}:", starter, re.M)
        assert re.search(rf"^[ #]*{new}:", starter, re.M)
