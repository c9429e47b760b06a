"""Growth of checkpoints: what stays, what is new, what is held, and that training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework import load_model
from ni_framework.checkpoint.loaded_checkpoint import Whole
from ni_framework.checkpoint.manifest import AVERAGE, TRAINING, WEIGHTS, check_files
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.run_dir import find_checkpoint, locked
from ni_framework.checkpoint.verify import verify
from ni_framework.errors import PluginError, UsageError
from ni_framework.growth.grow import Asked, grow
from ni_framework.growth.grown_checkpoint import STEP
from ni_framework.growth.plan import add, begun, functions_named, remove
from ni_framework.growth.transplant import Function, outline_of
from ni_framework.model.compose import meta_model
from ni_framework.model.freezing import held_by, with_scripts
from ni_framework.training.train import resume, train
from tests.helpers.small_recipe import small_recipe

FUNCTIONS = ("scripts.0.embedding.signature", "scripts.0.embedding.code")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with averaged weights."""
    folder = tmp_path_factory.mktemp("grown")
    train(small_recipe(folder, "train.average=0.9"), folder / "run")
    return folder / "run"


def grown(run: Path, out: Path, *overrides: str, **asked: Any) -> Path:
    grow(run, out, Asked(overrides=overrides, **asked))
    return out


def tensors(run: Path, name: str) -> dict[str, Tensor]:
    folder = find_checkpoint(run)
    return Stored(folder, check_files(folder), name, checked=True).all()


def parameter(run: Path, name: str) -> Tensor:
    return tensors(run, WEIGHTS)[name]


def test_everything_there_was_is_kept(run: Path, tmp_path: Path) -> None:
    """Weights, averages and what the optimizer remembers, by name; nothing is remembered of what is new."""
    document = grow(run, tmp_path / "out", Asked(add=2, tasks="letters:26"))
    assert document["change"]["computed"] == 0
    assert document["change"]["exact"] <= 1e-12
    assert document["functions"] == [[3, 5]]
    assert all(0 < of["open"] <= 1 for of in document["added"])
    before, now = Whole.of(run), Whole.of(tmp_path / "out")
    assert before.averages is not None
    assert now.averages is not None
    for old, new in ((before.weights, now.weights), (before.averages, now.averages), (before.training, now.training)):
        for name, value in old.items():
            if name.startswith(("engine/guard", "means/", "collapse/")):
                continue
            if name.startswith("engine/optimizer/step/"):  # counted from 0 again, for moments of 0 to be corrected
                assert not new[name]
                continue
            rest = new[name][len(value) :] if value.ndim else torch.zeros(0)
            assert torch.equal(new[name][: len(value)] if value.ndim else new[name], value), name
            assert name in now.weights or not rest.any()  # moments of new functions and tasks
    assert now.manifest.step == before.manifest.step
    assert now.recipe.model.tasks == {"digits": 10, "letters": 26}
    assert verify(find_checkpoint(tmp_path / "out")).differences == ()


def test_training_goes_on(run: Path, tmp_path: Path) -> None:
    """The schedule begins again; the gate moves at the first step, code and signature from the second."""
    out = grown(run, tmp_path / "out", add=2, init="near=f1")
    before = tensors(out, WEIGHTS)
    resume(out, ["train.steps=7"])
    first = tensors(out, WEIGHTS)
    assert (first["scripts.0.gates"] != 0).all()
    for name in FUNCTIONS:
        assert torch.equal(first[name][3:], before[name][3:])
        assert not torch.equal(first[name][:3], before[name][:3])
    resume(out, ["train.steps=9"])
    for name in FUNCTIONS:
        assert (parameter(out, name)[3:] != before[name][3:]).any(dim=1).all()


@pytest.mark.parametrize("freeze", ["old", "all-but-routing"])
def test_frozen_is_frozen(run: Path, tmp_path: Path, freeze: str) -> None:
    """200 steps of AdamW with weight decay leave every old number as it was; with routing learned, all but that."""
    body = "{use: experts, heads: 2, key: 3}"
    settings = ["train.optimizer.weight_decay=0.5", "train.batch=4"]
    body = "{use: experts, heads: 2, key: 3}"
    out = grown(run, tmp_path / "out", *settings, add=1, init="near=f1", body=body, freeze=freeze)
    before = tensors(run, AVERAGE)  # what answers; of it the weights are made that stay
    resume(out, ["train.steps=206"])
    averages = tensors(out, AVERAGE)
    assert freeze != "old" or all(torch.equal(averages[n][: len(v)], v) for n, v in before.items() if v.ndim)
    now = tensors(out, WEIGHTS)
    routing = {name for name in before if ".type_inference." in name or ".router." in name or name == FUNCTIONS[0]}
    learned = set()
    for name, value in before.items():
        old = now[name][: len(value)] if value.ndim else now[name]
        if not torch.equal(old, value):
            learned.add(name)
    assert learned == (set() if freeze == "old" else routing)
    assert now["scripts.0.gates"].all()
    assert not torch.equal(
        now[FUNCTIONS[1]][3:], parameter(grown(run, tmp_path / "b", add=1, init="near=f1"), FUNCTIONS[1])[3:]
    )


def test_what_an_earlier_growth_added_is_old(run: Path, tmp_path: Path) -> None:
    """It is held as all else, its gate too; and goes on learning where nothing is held."""
    first = grown(run, tmp_path / "first", add=1, init="near=f0", body="{use: experts, heads: 2, key: 3}")
    resume(first, ["train.steps=9"])
    before = tensors(first, AVERAGE)
    out = grown(first, tmp_path / "out", add=1, init="near=f1", freeze="old")
    resume(out, ["train.steps=14"])
    now = tensors(out, WEIGHTS)
    assert before["scripts.0.gates"].all()
    assert all(torch.equal(now[n][: len(v)] if v.ndim else now[n], v) for n, v in before.items())
    assert now["scripts.0.gates"][1] != 0
    assert [of.new for of in Whole.of(out).recipe.model.grown] == [False, True]


def test_functions_of_tasks_without_data_are_not_pruned(run: Path, tmp_path: Path) -> None:
    """Nothing is known of their use."""
    out = grown(run, tmp_path / "a", add=1, tasks="letters:26")
    both = grown(out, tmp_path / "b", add=1)  # of which the gate is shut
    assert grow(both, tmp_path / "out", Asked(below=0.01))["functions"] == [[5, 4]]
    assert Whole.of(tmp_path / "out").recipe.model.grown[0].tasks == ("letters",)


def test_moments_outlast_freezing(run: Path, tmp_path: Path) -> None:
    """What the optimizer remembers of frozen parameters is there when they are trained again."""
    out = grown(run, tmp_path / "out", add=1, freeze="old")
    before = tensors(out, TRAINING)
    resume(out, ["train.steps=8"])
    now = tensors(out, TRAINING)
    name = "engine/optimizer/exp_avg/scripts.0.type_inference.layers.1.weight"
    assert before[name].any()
    assert torch.equal(before[name], now[name])


def test_averages_end_and_begin_where_a_model_grows(run: Path, tmp_path: Path) -> None:
    """Nothing that answers changes: where nothing is averaged any more, averages become the weights."""
    ended = grown(run, tmp_path / "ended", "train.average=null", add=1)
    assert not tensors(ended, AVERAGE)
    averages, weights = tensors(run, AVERAGE), tensors(ended, WEIGHTS)
    assert all(torch.equal(weights[name][: len(value)], value) for name, value in averages.items() if value.ndim)
    resume(ended, ["train.steps=7"])
    begun = grown(ended, tmp_path / "begun", "train.average=0.5", add=1)
    resume(begun, ["train.steps=8"])
    assert tensors(begun, TRAINING)["engine/average/count"] == 1
    assert tensors(begun, AVERAGE)


def test_what_a_killed_growth_left_is_cleared_and_nothing_else(run: Path, tmp_path: Path) -> None:
    left, busy, other = (tmp_path / f".{name}.new" for name in ("out.00000000", "out.00000001", "other.00000000"))
    for folder in (left, busy, other):
        folder.mkdir()
    with locked(busy):
        grown(run, tmp_path / "out", add=1)
    assert sorted(tmp_path.iterdir()) == [other, busy, tmp_path / "out"]


@pytest.mark.parametrize("body", [None, "{use: experts, heads: 2, key: 3}"])
def test_five_growths_and_back(run: Path, tmp_path: Path, body: str | None) -> None:
    """To the last byte of weights, averages and what the optimizer remembers."""
    place = run
    for number in range(5):
        place = grown(place, tmp_path / str(number), add=1 + number % 2, body=body if number == 2 else None)
    added = 3 + 7
    assert len(parameter(place, FUNCTIONS[0])) == added
    back = grown(place, tmp_path / "back", remove=",".join(f"f{number}" for number in range(3, added)))
    before, now = Whole.of(run), Whole.of(back)
    assert now.weights.keys() == before.weights.keys()
    assert all(torch.equal(now.weights[name], value) for name, value in before.weights.items())
    assert before.averages is not None
    assert now.averages is not None
    assert all(torch.equal(now.averages[name], value) for name, value in before.averages.items())
    optimizer = {name: value for name, value in before.training.items() if name.startswith("engine/optimizer/exp_avg")}
    assert optimizer
    assert all(torch.equal(now.training[name], value) for name, value in optimizer.items())
    assert now.recipe.model.grown == ()
    files = [(Path(of.folder) / WEIGHTS).read_bytes() for of in (before, now)]
    assert files[0] == files[1]


def test_removing_from_the_middle(run: Path, tmp_path: Path) -> None:
    """Rows of the others move up, whichever growth they came by."""
    whole = grown(grown(run, tmp_path / "a", add=2), tmp_path / "b", add=1)
    document = grow(whole, tmp_path / "out", Asked(remove="f1,f3"))
    assert document["functions"] == [[6, 4]]
    assert set(document["held_out"]) == {"test/accuracy", "test/loss"}
    for name in FUNCTIONS:
        assert torch.equal(parameter(tmp_path / "out", name), parameter(whole, name)[[0, 2, 4, 5]])
    assert Whole.of(tmp_path / "out").recipe.model.generations == (2, 1, 1)


def test_beginning_near_one_that_has_moved_up(run: Path, tmp_path: Path) -> None:
    """Functions are named as they were before; one that goes is no neighbour."""
    near = grown(run, tmp_path / "near", remove="f0", add=1, init="near=f2")
    code = parameter(near, FUNCTIONS[1])
    step = (code[2] - parameter(run, FUNCTIONS[1])[2]).square().mean().sqrt()
    assert step < 2 * STEP * code[1].square().mean().sqrt()
    with pytest.raises(UsageError) as caught:
        grow(run, tmp_path / "gone", Asked(remove="f2", add=1, init="near=f2"))
    assert str(caught.value) == "--init near=f2: f2 is removed; name functions that stay"


def test_ways_to_begin(run: Path, tmp_path: Path) -> None:
    """Near lies a tenth of each vector's length from its model; mirror turns the code alone; each new one is another."""
    near = grown(run, tmp_path / "near", add=2, init="near=f1")
    mirror = grown(run, tmp_path / "mirror", add=2, init="mirror=f1")
    for name in FUNCTIONS:
        rows, other = parameter(near, name), parameter(mirror, name)
        sign = -1 if name.endswith("code") else 1
        for row, start in ((rows[3], rows[1]), (rows[4], rows[1]), (other[3], sign * other[1])):
            away = (row - start).square().mean().sqrt() / rows[1].square().mean().sqrt()
            assert STEP / 3 < away < 2 * STEP
        assert not torch.equal(rows[3], rows[4])
    turns = parameter(grown(run, tmp_path / "turns", add=3, init="near=f0,f2"), FUNCTIONS[1])
    assert [torch.cdist(row[None], turns[:3]).argmin().item() for row in turns[3:]] == [0, 2, 0]
    random = grown(run, tmp_path / "random", add=2)
    assert len({tuple(row.tolist()) for row in parameter(random, FUNCTIONS[1])}) == 5


def test_mirror_needs_codes_of_their_own(tmp_path: Path) -> None:
    train(small_recipe(tmp_path, "model.embedding=consolidated", "train.steps=1"), tmp_path / "run")
    grow(tmp_path / "run", tmp_path / "near", Asked(add=1, init="near=f0"))
    with pytest.raises(UsageError) as caught:
        grow(tmp_path / "run", tmp_path / "mirror", Asked(add=1, init="mirror=f0"))
    assert str(caught.value) == "--init mirror: codes are no parameters of their own here; use near"
    assert not (tmp_path / "mirror").exists()


def test_iterations(run: Path, tmp_path: Path) -> None:
    document = grow(run, tmp_path / "out", Asked(iterations=5))
    assert load_model(tmp_path / "out").iterations == (5,)
    assert document["change"]["computed"] > 0
    assert "test/accuracy" in document["held_out"]


def test_a_script_of_several(tmp_path: Path) -> None:
    """Scripts that were alike stand apart in the recipe once one of them has grown."""
    train(small_recipe(tmp_path, "model.scripts=2", "train.steps=1"), tmp_path / "run")
    out = grown(tmp_path / "run", tmp_path / "one", add=1, script=1)
    assert [script.num_functions for script in Whole.of(out).recipe.model.program] == [3, 4]
    both = grown(tmp_path / "run", tmp_path / "both", add=1)
    assert [script.num_functions for script in Whole.of(both).recipe.model.program] == [4, 4]
    assert Whole.of(both).recipe.model.scripts == 2
    with pytest.raises(UsageError) as caught:
        grow(both, tmp_path / "other", Asked(remove="f3"))
    assert str(caught.value) == "this model has 2 scripts, from 0; say which with --script"


def test_names_of_functions(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    assert functions_named(["f0", "f2"], recipe, None) == [Function(0, 0), Function(0, 2)]
    for name in ("f3", "f01", "2", "f-1", ""):
        with pytest.raises(UsageError) as caught:
            functions_named([name], recipe, None)
        assert (
            str(caught.value)
            == f"{name or 'a function without a name'}: script 0 has the functions f0 to f2; name some of these"
        )


def test_origins_follow(tmp_path: Path) -> None:
    growth = remove(add(begun(small_recipe(tmp_path)), 2, [0]), [Function(0, 0), Function(0, 3)])
    assert growth.origins == {Function(0, 0): Function(0, 1), Function(0, 1): Function(0, 2)}
    assert growth.added == [Function(0, 2)]


def test_what_is_learned(tmp_path: Path) -> None:
    """Leading elements of each parameter that stay, by the parts that are named."""
    grown = ["model.grown=[{functions: 2}]", "model.tasks={digits: 10, letters: 26}", "model.new_tasks=[letters]"]

    def free(learn: str) -> set[str]:
        recipe = small_recipe(tmp_path, *grown, f"train.learn={learn}")
        parameters = meta_model(recipe).named_parameters()
        return {name for name, value in parameters if held_by(recipe).get(name, 0) < value.numel()}

    assert held_by(small_recipe(tmp_path, *grown)) == {}
    assert free("[codes]") == {FUNCTIONS[1]}
    new = {"scripts.0.gates", *FUNCTIONS, "head.cls"} | {
        f"head.maps.1.{n}.{of}" for n in (0, 1) for of in ("weight", "bias")
    }
    assert free("[grown]") == new
    routing = {name for name in free("[routing]") if ".type_inference." not in name}
    assert routing == {FUNCTIONS[0], "scripts.0.router.log_bandwidth"}
    held = held_by(small_recipe(tmp_path, *grown, "train.learn=[grown]"))
    assert (held[FUNCTIONS[0]], held[FUNCTIONS[1]], held["head.cls"]) == (3 * 4, 3 * 5, 12)


def test_random_iterations(tmp_path: Path) -> None:
    """Each step takes as many as seed and step say; the model is left with its own."""
    from ni_framework import build_model
    from ni_framework.data.sampler import Order
    from ni_framework.engines.local import LocalEngine
    from ni_framework.model.compose import build_data

    recipe = small_recipe(tmp_path, "model.iterations=4", "train.random_iterations=true")
    order = Order(build_data(recipe).open()["train"], recipe.train.batch, recipe.seed)
    seen = []
    for _ in range(2):
        engine = LocalEngine(build_model(recipe), recipe)
        seen.append([len(engine.step(n, order[n], True).forward.passages[0].compatibility) for n in range(12)])
        assert engine.model.iterations == (4,)
    assert seen[0] == seen[1]
    assert set(seen[0]) == {1, 2, 3, 4}


def test_a_component_that_cannot_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that holds functions elsewhere than along a first dimension."""
    from ni_standard.type_inference import MLP

    build = MLP.__init__

    def wide(self: Any, config: Any, sizes: Any, build_: Any) -> None:
        build(self, config, sizes, build_)
        self.layers[0].extra = torch.nn.Parameter(torch.zeros(2, sizes.functions))

    monkeypatch.setattr(MLP, "__init__", wide)
    with pytest.raises(PluginError) as caught:
        outline_of(small_recipe(tmp_path))
    assert str(caught.value) == (
        "error: scripts.0.type_inference.layers.0.extra goes from shape [2, 3] to [2, 4] as functions or tasks are added\n"
        "  help: only what has them along its first dimension, at its end, can grow"
    )


def test_nothing_is_left_of_a_failure(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ni_framework.growth.grown_checkpoint.save_checkpoint", fail)
    with pytest.raises(OSError, match="No space"):
        grow(run, tmp_path / "out", Asked(add=1))
    assert list(tmp_path.iterdir()) == []


def test_scripts_alike_stay_one(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, "model.scripts=3")
    assert with_scripts(recipe, recipe.model.program) == recipe
