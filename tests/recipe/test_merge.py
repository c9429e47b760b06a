"""What lies over what: files over those they extend, overrides over files, scripts over the model's own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.errors import RecipeError
from ni_framework.options import Choice
from ni_framework.recipe import Recipe, load, loads
from tests.helpers.recipe_components import VALID, Kernel, Lines, Mlp, TopK, resolve


def write(folder: Path, **texts: str) -> Path:
    """Writes files by their stems; returns the path of `top.yaml`."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "top.yaml"


def router(text: str, *overrides: str) -> Choice:
    """The router of the valid recipe with another value there, and overrides."""
    return loads(VALID.replace("{use: kernel, truncation: 1.2}", text), overrides, resolve=resolve).model.router


def test_extends_merges_key_by_key(tmp_path: Path) -> None:
    """What the top says holds, what it leaves out comes from below, lists are replaced."""
    top = "extends: base.yaml\nmodel: {input: {image: [3, 4, 4]}, width: 8}\ntrain: {optimizer: {weight_decay: 0}}\n"
    recipe = load(write(tmp_path, base=VALID, top=top), resolve=resolve)
    assert (recipe.seed, recipe.model.width, recipe.model.functions) == (3, 8, 5)
    assert (recipe.model.input.options.image, recipe.model.input.options.patch) == ((3, 4, 4), 2)
    assert (recipe.train.optimizer.lr, recipe.train.optimizer.weight_decay) == (3e-3, 0.0)
    assert recipe.name == "top"


def test_extends_chains_and_is_relative_to_each_file(tmp_path: Path) -> None:
    """Each `extends` is read from the folder of the file that says it; the highest file wins."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "middle.yaml").write_text("extends: ../base.yaml\nseed: 5\nmodel: {width: 5}\n")
    path = write(tmp_path, base=VALID, top="extends: a/middle.yaml\nseed: 6\n")
    recipe = load(path, resolve=resolve)
    assert (recipe.seed, recipe.model.width, recipe.model.code) == (6, 5, 64)


def test_places_are_those_of_the_file_that_says_it(tmp_path: Path) -> None:
    """A value from below keeps its file and line, for the caller's own problems as well."""
    path = write(tmp_path, base=VALID, top="extends: base.yaml\nmodel:\n  router: {truncation: 3}\n")
    marks = load(path, resolve=resolve).marks
    assert str(marks["model.router.truncation"]) == f"{path}:3:24"
    assert str(marks["model.router.use"]) == f"{tmp_path / 'base.yaml'}:10:17"
    assert str(marks["model.width"]) == f"{tmp_path / 'base.yaml'}:4:10"
    recipe = load(path, resolve=resolve)
    assert str(recipe.problem("model.router.truncation", "x").mark) == f"{path}:3:24"
    assert str(recipe.problem("model.head.size", "x").mark) == f"{path}:2:1"


def test_errors_below_name_the_file_below(tmp_path: Path) -> None:
    """Problems of both files come together, each with its own place."""
    path = write(tmp_path, base=VALID.replace("seed: 3", "seed: x"), top="extends: base.yaml\ncolour: red\n")
    with pytest.raises(RecipeError) as caught:
        load(path, resolve=resolve)
    assert [str(problem.mark) for problem in caught.value.problems] == [f"{tmp_path / 'base.yaml'}:2:7", f"{path}:2:1"]


def test_extends_in_a_circle_names_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A circle is found by the files themselves, whatever they are called on the way."""
    (tmp_path / "link.yaml").symlink_to("top.yaml")
    write(tmp_path, top="extends: b.yaml\n", b="extends: ./c.yaml\n", c="extends: link.yaml\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load("top.yaml", resolve=resolve)
    chain = "top.yaml -> b.yaml -> c.yaml -> link.yaml"
    assert str(caught.value) == (
        f"c.yaml:1:10: error: extends: goes round in a circle: {chain}\n    extends: link.yaml\n             ^"
    )


def test_a_chain_has_an_end(tmp_path: Path) -> None:
    """Sixteen recipes over each other and no more."""
    for number in range(20):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    for last, ends in ((15, True), (16, False)):
        (tmp_path / f"{last}.yaml").write_text(VALID)
        (tmp_path / f"{last - 1}.yaml").write_text(f"extends: {last}.yaml\n")
        if ends:
            assert load(tmp_path / "0.yaml", resolve=resolve).seed == 3
        else:
            with pytest.raises(RecipeError, match="extends: is a chain of more than 16 recipes"):
                load(tmp_path / "0.yaml", resolve=resolve)


def test_a_text_extends_nothing() -> None:
    """Without a file there is no folder to look in."""
    with pytest.raises(RecipeError, match="extends: needs a file, and this recipe is a text"):
        loads(f"extends: base.yaml\n{VALID}", resolve=resolve)


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ("{use: kernel, truncation: 1.2}", "{use: top_k, k: 2}", Choice("top_k", TopK(k=2))),
        ("{use: kernel, truncation: 1.2}", "{truncation: 3}", Choice("kernel", Kernel(truncation=3.0))),
        ("{use: kernel, truncation: 1.2}", "{use: kernel}", Choice("kernel", Kernel(truncation=1.2))),
        # a bare name stands for {use: name}, on either side
        ("{use: kernel, truncation: 1.2}", "kernel", Choice("kernel", Kernel(truncation=1.2))),
        ("kernel", "{truncation: 3}", Choice("kernel", Kernel(truncation=3.0))),
        ("{use: top_k, k: 2}", "kernel", Choice("kernel", Kernel())),
        ("kernel", "{use: top_k, k: 2}", Choice("top_k", TopK(k=2))),
        # a mapping without `use` means the default, kernel
        ("{truncation: 1.2}", "{use: kernel}", Choice("kernel", Kernel(truncation=1.2))),
        ("{truncation: 1.2}", "{use: top_k, k: 2}", Choice("top_k", TopK(k=2))),
        ("{use: top_k, k: 2}", "{hard: true}", Choice("top_k", TopK(k=2, hard=True))),
    ],
)
def test_options_go_with_their_component(base: str, override: str, expected: Choice, tmp_path: Path) -> None:
    """Where `use` changes the old options go; the same by an override, by its parts, and by a file over another."""
    assert router(base, f"model.router={override}") == expected
    top = f"extends: base.yaml\nmodel:\n  router: {override}\n"
    path = write(tmp_path, base=VALID.replace("{use: kernel, truncation: 1.2}", base), top=top)
    assert load(path, resolve=resolve).model.router == expected


def test_options_go_with_a_component_inside_a_component() -> None:
    """The default that a body declares for its own part counts as well."""
    base = VALID.replace("linear: modlin", "linear: {use: lowrank, depth: 3}")
    over = ["model.body.linear.use=modlin"]
    assert loads(base, over, resolve=resolve).model.body.options.linear.use == "modlin"
    assert loads(base, ["model.body.linear.depth=4"], resolve=resolve).model.body.options.linear.options == Mlp(depth=4)
    assert loads(base, ["model.body.use=lines_of_code"], resolve=resolve).model.body.options.linear.use == "lowrank"


def test_the_schedule_is_chosen_like_a_component() -> None:
    """A config with a key `use` follows the same rule, and may be a bare name."""
    base = f"{VALID}  schedule: {{warmup: 0.3}}\n"
    assert loads(base, ["train.schedule.use=one_cycle"], resolve=resolve).train.schedule.warmup == 0.3
    changed = loads(base, ["train.schedule=cosine"], resolve=resolve).train.schedule
    assert (changed.use, changed.warmup) == ("cosine", 0.1)


def test_overrides_of_one_component_in_any_order() -> None:
    """Its name and its options may come in either order, from one argument or several."""
    parts = ["model.router.k=2", "model.router.use=top_k", "model.router.hard=true"]
    for overrides in (parts, parts[::-1], ["model.router={use: top_k, k: 2}", "model.router.hard=true"]):
        assert router("kernel", *overrides) == Choice("top_k", TopK(k=2, hard=True))


def test_the_last_override_wins() -> None:
    """As with the flags of any command."""
    assert loads(VALID, ["seed=1", "seed=2"], resolve=resolve).seed == 2
    assert router("kernel", "model.router.use=top_k", "model.router.use=kernel") == Choice("kernel", Kernel())


def test_overrides_are_read_as_yaml() -> None:
    """Numbers, text, null, lists and places in lists, all as in a recipe; only the first `=` divides."""
    overrides = [
        "train.clip=null",
        "train.optimizer.betas=[.5, 1e-3]",
        "train.optimizer.betas.1=0.25",
        "requires=['a==1']",
    ]
    recipe = loads(VALID, [*overrides, "requires.0=b=c"], resolve=resolve)
    assert (recipe.train.clip, recipe.train.optimizer.betas, recipe.requires) == (None, (0.5, 0.25), ("b=c",))


def test_an_override_keeps_its_own_place() -> None:
    """The caller's own problems point into the argument, and what is around it stays in the file."""
    recipe = loads(VALID, ["model.router.truncation=2"], resolve=resolve)
    mark = recipe.marks["model.router.truncation"]
    assert (str(mark), mark.column, mark.text) == (
        "override 'model.router.truncation=2'",
        25,
        "model.router.truncation=2",
    )
    assert str(recipe.marks["model.router"]) == "recipe:10:11"


def problems(text: str, *overrides: str) -> list[str]:
    """The places and messages of what is wrong."""
    with pytest.raises(RecipeError) as caught:
        loads(text, overrides, resolve=resolve)
    return [f"{problem.mark}: {problem.message}" for problem in caught.value.problems]


def test_what_lies_over_a_broken_value_adds_no_problems() -> None:
    """One mistake, one report; a value that replaces the broken one whole leaves that report too."""
    text = VALID.partition("train:")[0] + f"train: {'9' * 50}\n"
    expected = ["recipe:13:8: train: the number is beyond 64 bits"]
    assert problems(text) == problems(text, "train.steps=3") == problems(text, "train={steps: 3, batch: 4}") == expected


def test_an_override_through_a_key_leaves_its_place() -> None:
    """An unknown key is wrong where the file has it, and not where the override passes through."""
    text = f"{VALID}colour: {{red: 1}}\n"
    assert problems(text, "colour.red=2") == ["recipe:17:1: colour: unknown key"]


def scripts(*overrides: str) -> tuple[Recipe, tuple]:
    """The valid recipe with overrides, and its scripts."""
    recipe = loads(VALID, overrides, resolve=resolve)
    return recipe, recipe.model.program


def test_scripts_are_the_models_own_keys_with_what_differs() -> None:
    """Each is complete; what it leaves out comes from the model, what it says is laid over that."""
    text = "[{}, {functions: 2, router: {truncation: 3}}, {router: {use: top_k, k: 1}, body: {linear: lowrank}}]"
    recipe, (one, two, three) = scripts(f"model.scripts={text}")
    assert one == scripts("model.scripts=1")[1][0]
    assert (two.functions, two.router, two.body) == (2, Choice("kernel", Kernel(truncation=3.0)), one.body)
    assert three.router == Choice("top_k", TopK(k=1))
    assert three.body == Choice("lines_of_code", Lines(linear=Choice("lowrank", Mlp())))
    assert recipe.model.functions == 5
    assert [script.body.path for script in recipe.model.program] == [f"model.scripts.{n}.body" for n in range(3)]
    assert one.body.options.linear.path == "model.scripts.0.body.linear"
    assert recipe.model.body.options.linear.path == "model.body.linear"


def test_scripts_inherit_what_an_override_changes() -> None:
    """An override of the model reaches every script that does not say otherwise; one of a script only that."""
    overrides = ["model.scripts=[{}, {functions: 2}]", "model.functions=7", "model.code=9", "model.scripts.1.code=3"]
    _, (one, two) = scripts(*overrides)
    assert ((one.functions, one.code), (two.functions, two.code)) == ((7, 9), (2, 3))


def test_a_number_of_scripts_is_that_many_equal_ones() -> None:
    """The short form."""
    assert scripts("model.scripts=3")[1] == scripts("model.scripts=[{}, {}, {}]")[1]
