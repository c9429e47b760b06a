"""Merging: files over the files that they extend, overrides over files, scripts over the model's own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.errors import RecipeError
from ni_framework.options import ComponentSpec
from ni_framework.recipe import Recipe, load, loads
from tests.helpers.recipe_components import VALID_RECIPE, Kernel, Lines, Mlp, TopK, resolve_component


def write_recipes(folder: Path, **texts: str) -> Path:
    """Writes files by their stems; returns the path of `top.yaml`."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "top.yaml"


def load_router(text: str, *overrides: str) -> ComponentSpec:
    """The router of the valid recipe with its value replaced, and with overrides."""
    return loads(
        VALID_RECIPE.replace("{use: kernel, truncation: 1.2}", text), overrides, resolve=resolve_component
    ).model.router


def test_extends_merges_key_by_key(tmp_path: Path) -> None:
    """Keys of the upper file win, other keys come from the lower file, lists are replaced."""
    top = "extends: base.yaml\nmodel: {input: {image: [3, 4, 4]}, width: 8}\ntrain: {optimizer: {weight_decay: 0}}\n"
    recipe = load(write_recipes(tmp_path, base=VALID_RECIPE, top=top), resolve=resolve_component)
    assert recipe.seed == 3
    assert recipe.model.width == 8
    assert recipe.model.functions == 5
    assert recipe.model.input.options.image == (3, 4, 4)
    assert recipe.model.input.options.patch == 2
    assert recipe.train.optimizer.lr == 3e-3
    assert recipe.train.optimizer.weight_decay == 0.0
    assert recipe.name == "top"


def test_extends_chains_and_is_relative_to_each_file(tmp_path: Path) -> None:
    """Each `extends` is relative to the folder of its file; the uppermost file wins."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "middle.yaml").write_text("extends: ../base.yaml\nseed: 5\nmodel: {width: 5}\n")
    path = write_recipes(tmp_path, base=VALID_RECIPE, top="extends: a/middle.yaml\nseed: 6\n")
    recipe = load(path, resolve=resolve_component)
    assert recipe.seed == 6
    assert recipe.model.width == 5
    assert recipe.model.code == 64


def test_values_keep_the_place_in_their_file(tmp_path: Path) -> None:
    """A value of the lower file keeps its file and line, also in `Recipe.problem_at`."""
    path = write_recipes(tmp_path, base=VALID_RECIPE, top="extends: base.yaml\nmodel:\n  router: {truncation: 3}\n")
    marks = load(path, resolve=resolve_component).marks
    assert str(marks["model.router.truncation"]) == f"{path}:3:24"
    assert str(marks["model.router.use"]) == f"{tmp_path / 'base.yaml'}:10:17"
    assert str(marks["model.width"]) == f"{tmp_path / 'base.yaml'}:4:10"
    recipe = load(path, resolve=resolve_component)
    assert str(recipe.problem_at("model.router.truncation", "x").mark) == f"{path}:3:24"
    assert str(recipe.problem_at("model.head.size", "x").mark) == f"{path}:2:1"


def test_problems_of_both_files_are_reported(tmp_path: Path) -> None:
    """Each with the place in its file."""
    path = write_recipes(
        tmp_path, base=VALID_RECIPE.replace("seed: 3", "seed: x"), top="extends: base.yaml\ncolour: red\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(path, resolve=resolve_component)
    assert [str(problem.mark) for problem in caught.value.problems] == [f"{tmp_path / 'base.yaml'}:2:7", f"{path}:2:1"]


def test_extends_in_a_circle_names_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The circle is recognised although a file is reached under another name."""
    (tmp_path / "link.yaml").symlink_to("top.yaml")
    write_recipes(tmp_path, top="extends: b.yaml\n", b="extends: ./c.yaml\n", c="extends: link.yaml\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load("top.yaml", resolve=resolve_component)
    chain = "top.yaml -> b.yaml -> c.yaml -> link.yaml"
    assert str(caught.value) == (
        f"c.yaml:1:10: error: extends: forms a circle: {chain}\n    extends: link.yaml\n             ^"
    )


def test_a_chain_of_extends_has_a_largest_length(tmp_path: Path) -> None:
    """Sixteen recipes."""
    for number in range(20):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    for last, is_allowed in ((15, True), (16, False)):
        (tmp_path / f"{last}.yaml").write_text(VALID_RECIPE)
        (tmp_path / f"{last - 1}.yaml").write_text(f"extends: {last}.yaml\n")
        if is_allowed:
            assert load(tmp_path / "0.yaml", resolve=resolve_component).seed == 3
        else:
            with pytest.raises(RecipeError, match="extends: is a chain of more than 16 recipes"):
                load(tmp_path / "0.yaml", resolve=resolve_component)


def test_extends_is_rejected_in_a_text() -> None:
    """Without a file there is no folder for a relative path."""
    with pytest.raises(RecipeError, match="extends: is only possible in a file, and this recipe is a text"):
        loads(f"extends: base.yaml\n{VALID_RECIPE}", resolve=resolve_component)


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ("{use: kernel, truncation: 1.2}", "{use: top_k, k: 2}", ComponentSpec("top_k", TopK(k=2))),
        ("{use: kernel, truncation: 1.2}", "{truncation: 3}", ComponentSpec("kernel", Kernel(truncation=3.0))),
        ("{use: kernel, truncation: 1.2}", "{use: kernel}", ComponentSpec("kernel", Kernel(truncation=1.2))),
        # A bare name means {use: name}, on either side.
        ("{use: kernel, truncation: 1.2}", "kernel", ComponentSpec("kernel", Kernel(truncation=1.2))),
        ("kernel", "{truncation: 3}", ComponentSpec("kernel", Kernel(truncation=3.0))),
        ("{use: top_k, k: 2}", "kernel", ComponentSpec("kernel", Kernel())),
        ("kernel", "{use: top_k, k: 2}", ComponentSpec("top_k", TopK(k=2))),
        # A mapping without `use` means the default, kernel.
        ("{truncation: 1.2}", "{use: kernel}", ComponentSpec("kernel", Kernel(truncation=1.2))),
        ("{truncation: 1.2}", "{use: top_k, k: 2}", ComponentSpec("top_k", TopK(k=2))),
        ("{use: top_k, k: 2}", "{hard: true}", ComponentSpec("top_k", TopK(k=2, hard=True))),
    ],
)
def test_options_are_dropped_with_their_component(
    base: str, override: str, expected: ComponentSpec, tmp_path: Path
) -> None:
    """If `use` changes, the old options are dropped; by an override as by a file that extends another."""
    assert load_router(base, f"model.router={override}") == expected
    top = f"extends: base.yaml\nmodel:\n  router: {override}\n"
    path = write_recipes(tmp_path, base=VALID_RECIPE.replace("{use: kernel, truncation: 1.2}", base), top=top)
    assert load(path, resolve=resolve_component).model.router == expected


def test_options_are_dropped_with_a_nested_component() -> None:
    """A mapping without `use` means the default that the outer component declares."""
    base = VALID_RECIPE.replace("linear: modlin", "linear: {use: lowrank, depth: 3}")

    def load_linear(override: str) -> ComponentSpec:
        return loads(base, [override], resolve=resolve_component).model.body.options.linear

    assert load_linear("model.body.linear.use=modlin").use == "modlin"
    assert load_linear("model.body.linear.depth=4").options == Mlp(depth=4)
    assert load_linear("model.body.use=lines_of_code").use == "lowrank"


def test_the_schedule_is_named_like_a_component() -> None:
    """A config with a key `use` follows the same rule, and can be given as a bare name."""
    base = f"{VALID_RECIPE}  schedule: {{warmup: 0.3}}\n"
    assert loads(base, ["train.schedule.use=one_cycle"], resolve=resolve_component).train.schedule.warmup == 0.3
    changed = loads(base, ["train.schedule=cosine"], resolve=resolve_component).train.schedule
    assert changed.use == "cosine"
    assert changed.warmup == 0.1


def test_overrides_of_one_component_in_any_order() -> None:
    """Its name and its options can come in any order, in one argument or several."""
    single = ["model.router.k=2", "model.router.use=top_k", "model.router.hard=true"]
    for overrides in (single, single[::-1], ["model.router={use: top_k, k: 2}", "model.router.hard=true"]):
        assert load_router("kernel", *overrides) == ComponentSpec("top_k", TopK(k=2, hard=True))


def test_the_last_override_wins() -> None:
    """If several overrides set the same key."""
    assert loads(VALID_RECIPE, ["seed=1", "seed=2"], resolve=resolve_component).seed == 2
    assert load_router("kernel", "model.router.use=top_k", "model.router.use=kernel") == ComponentSpec(
        "kernel", Kernel()
    )


def test_overrides_are_read_as_yaml() -> None:
    """Numbers, text, null, lists and items of lists, as in a recipe; the value begins after the first `=`."""
    overrides = [
        "train.max_grad_norm=null",
        "train.optimizer.betas=[.5, 1e-3]",
        "train.optimizer.betas.1=0.25",
        "requires=['a==1']",
    ]
    recipe = loads(VALID_RECIPE, [*overrides, "requires.0=b=c"], resolve=resolve_component)
    assert recipe.train.max_grad_norm is None
    assert recipe.train.optimizer.betas == (0.5, 0.25)
    assert recipe.requires == ("b=c",)


def test_values_of_an_override_have_their_place_in_the_argument() -> None:
    """The mapping around the value keeps its place in the file."""
    recipe = loads(VALID_RECIPE, ["model.router.truncation=2"], resolve=resolve_component)
    mark = recipe.marks["model.router.truncation"]
    assert str(mark) == "override 'model.router.truncation=2'"
    assert mark.column == 25
    assert mark.text == "model.router.truncation=2"
    assert str(recipe.marks["model.router"]) == "recipe:10:11"


def load_problems(text: str, *overrides: str) -> list[str]:
    """The places and messages of all problems."""
    with pytest.raises(RecipeError) as caught:
        loads(text, overrides, resolve=resolve_component)
    return [f"{problem.mark}: {problem.message}" for problem in caught.value.problems]


def test_overriding_a_broken_value_adds_no_problems() -> None:
    """The broken value is reported once, also when an override replaces it completely."""
    text = VALID_RECIPE.partition("train:")[0] + f"train: {'9' * 50}\n"
    expected = ["recipe:13:8: train: the number is beyond 64 bits"]
    assert load_problems(text) == expected
    assert load_problems(text, "train.steps=3") == expected
    assert load_problems(text, "train={steps: 3, batch: 4}") == expected


def test_a_key_inside_an_override_path_keeps_its_place() -> None:
    """An unknown key is reported where the file has it, and not in the path of an override below it."""
    text = f"{VALID_RECIPE}colour: {{red: 1}}\n"
    assert load_problems(text, "colour.red=2") == ["recipe:17:1: colour: unknown key"]


def load_scripts(*overrides: str) -> tuple[Recipe, tuple]:
    """The valid recipe with overrides, and its scripts."""
    recipe = loads(VALID_RECIPE, overrides, resolve=resolve_component)
    return recipe, recipe.model.program


def test_scripts_are_laid_over_the_models_own_keys() -> None:
    """Each script is complete: its own keys win, all others come from the model."""
    text = "[{}, {functions: 2, router: {truncation: 3}}, {router: {use: top_k, k: 1}, body: {linear: lowrank}}]"
    recipe, (one, two, three) = load_scripts(f"model.scripts={text}")
    assert one == load_scripts("model.scripts=1")[1][0]
    assert two.functions == 2
    assert two.router == ComponentSpec("kernel", Kernel(truncation=3.0))
    assert two.body == one.body
    assert three.router == ComponentSpec("top_k", TopK(k=1))
    assert three.body == ComponentSpec("lines_of_code", Lines(linear=ComponentSpec("lowrank", Mlp())))
    assert recipe.model.functions == 5
    assert [script.body.path for script in recipe.model.program] == [f"model.scripts.{n}.body" for n in range(3)]
    assert one.body.options.linear.path == "model.scripts.0.body.linear"
    assert recipe.model.body.options.linear.path == "model.body.linear"


def test_scripts_inherit_overrides_of_the_model() -> None:
    """An override of the model changes every script without that key; an override of a script changes only that script."""
    overrides = ["model.scripts=[{}, {functions: 2}]", "model.functions=7", "model.code=9", "model.scripts.1.code=3"]
    _, (one, two) = load_scripts(*overrides)
    assert one.functions == 7
    assert one.code == 9
    assert two.functions == 2
    assert two.code == 3


def test_a_number_of_scripts_means_equal_scripts() -> None:
    assert load_scripts("model.scripts=3")[1] == load_scripts("model.scripts=[{}, {}, {}]")[1]
