"""Growth of checkpoints: what is kept, what is new, what is frozen, and that training continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework import load_model
from ni_framework.checkpoint.loaded_checkpoint import LoadedCheckpoint
from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE, check_files
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.run_dir import find_checkpoint, run_lock
from ni_framework.checkpoint.verify import verify
from ni_framework.errors import PluginError, UsageError
from ni_framework.growth.grow import GrowOptions, grow_checkpoint
from ni_framework.growth.initialize import NEAR_PERTURBATION
from ni_framework.growth.plan import add_functions, identity_plan, parse_functions, remove_functions
from ni_framework.growth.transplant import FunctionRef, infer_function_rows
from ni_framework.model.compose import build_meta_model
from ni_framework.model.freezing import frozen_prefix_sizes, with_scripts
from ni_framework.training.train import resume, train
from tests.helpers.small_recipe import load_small_recipe

FUNCTION_PARAMETERS = ("scripts.0.embedding.signature", "scripts.0.embedding.code")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with EMA weights."""
    folder = tmp_path_factory.mktemp("grown")
    train(load_small_recipe(folder, "train.ema_decay=0.9"), folder / "run")
    return folder / "run"


def grow_run(run: Path, out: Path, *overrides: str, **options: Any) -> Path:
    grow_checkpoint(run, out, GrowOptions(overrides=overrides, **options))
    return out


def read_weights(run: Path, name: str) -> dict[str, Tensor]:
    folder = find_checkpoint(run)
    return TensorReader(folder, check_files(folder), name, verified=True).read_all()


def read_parameter(run: Path, name: str) -> Tensor:
    return read_weights(run, WEIGHTS_FILE)[name]


def test_old_values_are_kept(run: Path, tmp_path: Path) -> None:
    """Weights, EMA weights and optimizer state, by name; the moments of new rows are 0."""
    document = grow_checkpoint(run, tmp_path / "out", GrowOptions(add=2, tasks="letters:26"))
    assert document["change"]["computed"] == 0
    assert document["change"]["exact"] <= 1e-12
    assert document["functions"] == [[3, 5]]
    assert all(0 < added["open"] <= 1 for added in document["added"])
    before, now = LoadedCheckpoint.load(run), LoadedCheckpoint.load(tmp_path / "out")
    assert before.ema_weights is not None
    assert now.ema_weights is not None
    for old, new in (
        (before.weights, now.weights),
        (before.ema_weights, now.ema_weights),
        (before.training_state, now.training_state),
    ):
        for name, value in old.items():
            if name.startswith(("engine/guard", "means/", "collapse/")):
                continue
            if name.startswith("engine/optimizer/step/"):
                # Reset, so that bias correction covers the zero moments of new rows.
                assert not new[name]
                continue
            rest = new[name][len(value) :] if value.ndim else torch.zeros(0)
            assert torch.equal(new[name][: len(value)] if value.ndim else new[name], value), name
            # The moments of new functions and tasks.
            assert name in now.weights or not rest.any()
    assert now.manifest.step == before.manifest.step
    assert now.recipe.model.tasks == {"digits": 10, "letters": 26}
    assert verify(find_checkpoint(tmp_path / "out")).differences == ()


@pytest.mark.slow
def test_training_continues(run: Path, tmp_path: Path) -> None:
    """The schedule starts again; the gate changes at the first step, code and signature from the second."""
    out = grow_run(run, tmp_path / "out", add=2, init="near=f1")
    before = read_weights(out, WEIGHTS_FILE)
    resume(out, ["train.steps=7"])
    first = read_weights(out, WEIGHTS_FILE)
    assert (first["scripts.0.gates"] != 0).all()
    for name in FUNCTION_PARAMETERS:
        assert torch.equal(first[name][3:], before[name][3:])
        assert not torch.equal(first[name][:3], before[name][:3])
    resume(out, ["train.steps=9"])
    for name in FUNCTION_PARAMETERS:
        assert (read_parameter(out, name)[3:] != before[name][3:]).any(dim=1).all()


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["old", "all-but-routing"])
def test_frozen_weights_do_not_change(run: Path, tmp_path: Path, freeze: str) -> None:
    """200 steps of AdamW with weight decay change no old weight, or with "all-but-routing" only those of routing."""
    settings = ["train.optimizer.weight_decay=0.5", "train.batch=4"]
    body = "{use: experts, heads: 2, key: 3}"
    out = grow_run(run, tmp_path / "out", *settings, add=1, init="near=f1", body=body, freeze=freeze)
    # The EMA weights compute the outputs, and become the frozen weights.
    before = read_weights(run, EMA_WEIGHTS_FILE)
    resume(out, ["train.steps=206"])
    ema_weights = read_weights(out, EMA_WEIGHTS_FILE)
    assert freeze != "old" or all(torch.equal(ema_weights[n][: len(v)], v) for n, v in before.items() if v.ndim)
    now = read_weights(out, WEIGHTS_FILE)
    routing = {
        name for name in before if ".type_inference." in name or ".router." in name or name == FUNCTION_PARAMETERS[0]
    }
    changed = set()
    for name, value in before.items():
        old = now[name][: len(value)] if value.ndim else now[name]
        if not torch.equal(old, value):
            changed.add(name)
    assert changed == (set() if freeze == "old" else routing)
    assert now["scripts.0.gates"].all()
    assert not torch.equal(
        now[FUNCTION_PARAMETERS[1]][3:],
        read_parameter(grow_run(run, tmp_path / "b", add=1, init="near=f1"), FUNCTION_PARAMETERS[1])[3:],
    )


@pytest.mark.slow
def test_functions_of_an_earlier_growth_count_as_old(run: Path, tmp_path: Path) -> None:
    """They are frozen like all other old weights, including their gates."""
    first = grow_run(run, tmp_path / "first", add=1, init="near=f0", body="{use: experts, heads: 2, key: 3}")
    resume(first, ["train.steps=9"])
    before = read_weights(first, EMA_WEIGHTS_FILE)
    out = grow_run(first, tmp_path / "out", add=1, init="near=f1", freeze="old")
    resume(out, ["train.steps=14"])
    now = read_weights(out, WEIGHTS_FILE)
    assert before["scripts.0.gates"].all()
    assert all(torch.equal(now[n][: len(v)] if v.ndim else now[n], v) for n, v in before.items())
    assert now["scripts.0.gates"][1] != 0
    assert [grown.new for grown in LoadedCheckpoint.load(out).recipe.model.added_functions] == [False, True]


@pytest.mark.slow
def test_functions_of_tasks_without_data_are_not_pruned(run: Path, tmp_path: Path) -> None:
    """Their use cannot be measured."""
    out = grow_run(run, tmp_path / "a", add=1, tasks="letters:26")
    # The gate of this function is 0.
    both = grow_run(out, tmp_path / "b", add=1)
    assert grow_checkpoint(both, tmp_path / "out", GrowOptions(below=0.01))["functions"] == [[5, 4]]
    assert LoadedCheckpoint.load(tmp_path / "out").recipe.model.added_functions[0].tasks == ("letters",)


@pytest.mark.slow
def test_moments_of_frozen_parameters_are_kept(run: Path, tmp_path: Path) -> None:
    """They are needed when the parameters are trained again."""
    out = grow_run(run, tmp_path / "out", add=1, freeze="old")
    before = read_weights(out, TRAINING_STATE_FILE)
    resume(out, ["train.steps=8"])
    now = read_weights(out, TRAINING_STATE_FILE)
    name = "engine/optimizer/exp_avg/scripts.0.type_inference.layers.1.weight"
    assert before[name].any()
    assert torch.equal(before[name], now[name])


@pytest.mark.slow
def test_ema_ends_and_starts_with_growth(run: Path, tmp_path: Path) -> None:
    """If the EMA ends, its weights become the weights, so that the outputs do not change."""
    ended = grow_run(run, tmp_path / "ended", "train.ema_decay=null", add=1)
    assert not read_weights(ended, EMA_WEIGHTS_FILE)
    ema_weights, weights = read_weights(run, EMA_WEIGHTS_FILE), read_weights(ended, WEIGHTS_FILE)
    assert all(torch.equal(weights[name][: len(value)], value) for name, value in ema_weights.items() if value.ndim)
    resume(ended, ["train.steps=7"])
    started = grow_run(ended, tmp_path / "started", "train.ema_decay=0.5", add=1)
    resume(started, ["train.steps=8"])
    assert read_weights(started, TRAINING_STATE_FILE)["engine/average/count"] == 1
    assert read_weights(started, EMA_WEIGHTS_FILE)


def test_only_staging_folders_of_killed_growths_are_removed(run: Path, tmp_path: Path) -> None:
    stale, busy, other = (tmp_path / f".{name}.new" for name in ("out.00000000", "out.00000001", "other.00000000"))
    for folder in (stale, busy, other):
        folder.mkdir()
    with run_lock(busy):
        grow_run(run, tmp_path / "out", add=1)
    assert sorted(tmp_path.iterdir()) == [other, busy, tmp_path / "out"]


@pytest.mark.slow
@pytest.mark.parametrize("body", [None, "{use: experts, heads: 2, key: 3}"])
def test_five_growths_and_back(run: Path, tmp_path: Path, body: str | None) -> None:
    """Weights, EMA weights and optimizer moments are bit-identical."""
    place = run
    for number in range(5):
        place = grow_run(place, tmp_path / str(number), add=1 + number % 2, body=body if number == 2 else None)
    added = 3 + 7
    assert len(read_parameter(place, FUNCTION_PARAMETERS[0])) == added
    back = grow_run(place, tmp_path / "back", remove=",".join(f"f{number}" for number in range(3, added)))
    before, now = LoadedCheckpoint.load(run), LoadedCheckpoint.load(back)
    assert now.weights.keys() == before.weights.keys()
    assert all(torch.equal(now.weights[name], value) for name, value in before.weights.items())
    assert before.ema_weights is not None
    assert now.ema_weights is not None
    assert all(torch.equal(now.ema_weights[name], value) for name, value in before.ema_weights.items())
    optimizer = {
        name: value for name, value in before.training_state.items() if name.startswith("engine/optimizer/exp_avg")
    }
    assert optimizer
    assert all(torch.equal(now.training_state[name], value) for name, value in optimizer.items())
    assert now.recipe.model.added_functions == ()
    files = [(Path(loaded.folder) / WEIGHTS_FILE).read_bytes() for loaded in (before, now)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_removing_from_the_middle(run: Path, tmp_path: Path) -> None:
    """The rows of the others move up, whichever growth added them."""
    grown = grow_run(grow_run(run, tmp_path / "a", add=2), tmp_path / "b", add=1)
    document = grow_checkpoint(grown, tmp_path / "out", GrowOptions(remove="f1,f3"))
    assert document["functions"] == [[6, 4]]
    assert set(document["held_out"]) == {"test/accuracy", "test/loss"}
    for name in FUNCTION_PARAMETERS:
        assert torch.equal(read_parameter(tmp_path / "out", name), read_parameter(grown, name)[[0, 2, 4, 5]])
    assert LoadedCheckpoint.load(tmp_path / "out").recipe.model.generations == (2, 1, 1)


def test_near_a_function_with_a_new_number(run: Path, tmp_path: Path) -> None:
    """Options use the old numbers of functions; a removed function cannot be a reference."""
    near = grow_run(run, tmp_path / "near", remove="f0", add=1, init="near=f2")
    code = read_parameter(near, FUNCTION_PARAMETERS[1])
    step = (code[2] - read_parameter(run, FUNCTION_PARAMETERS[1])[2]).square().mean().sqrt()
    assert step < 2 * NEAR_PERTURBATION * code[1].square().mean().sqrt()
    with pytest.raises(UsageError) as caught:
        grow_checkpoint(run, tmp_path / "gone", GrowOptions(remove="f2", add=1, init="near=f2"))
    assert str(caught.value) == "--init near=f2: f2 is removed; name functions that stay"


@pytest.mark.slow
def test_initial_values(run: Path, tmp_path: Path) -> None:
    """ "near" is a tenth of each vector's length away; "mirror" negates the code alone; new functions differ."""
    near = grow_run(run, tmp_path / "near", add=2, init="near=f1")
    mirror = grow_run(run, tmp_path / "mirror", add=2, init="mirror=f1")
    for name in FUNCTION_PARAMETERS:
        rows, other = read_parameter(near, name), read_parameter(mirror, name)
        sign = -1 if name.endswith("code") else 1
        for row, start in ((rows[3], rows[1]), (rows[4], rows[1]), (other[3], sign * other[1])):
            away = (row - start).square().mean().sqrt() / rows[1].square().mean().sqrt()
            assert NEAR_PERTURBATION / 3 < away < 2 * NEAR_PERTURBATION
        assert not torch.equal(rows[3], rows[4])
    turns = read_parameter(grow_run(run, tmp_path / "turns", add=3, init="near=f0,f2"), FUNCTION_PARAMETERS[1])
    assert [torch.cdist(row[None], turns[:3]).argmin().item() for row in turns[3:]] == [0, 2, 0]
    random = grow_run(run, tmp_path / "random", add=2)
    assert len({tuple(row.tolist()) for row in read_parameter(random, FUNCTION_PARAMETERS[1])}) == 5


def test_mirror_needs_codes_that_are_parameters(tmp_path: Path) -> None:
    train(load_small_recipe(tmp_path, "model.embedding=consolidated", "train.steps=1"), tmp_path / "run")
    grow_checkpoint(tmp_path / "run", tmp_path / "near", GrowOptions(add=1, init="near=f0"))
    with pytest.raises(UsageError) as caught:
        grow_checkpoint(tmp_path / "run", tmp_path / "mirror", GrowOptions(add=1, init="mirror=f0"))
    assert str(caught.value) == "--init mirror: codes are no parameters of their own here; use near"
    assert not (tmp_path / "mirror").exists()


def test_change_iterations(run: Path, tmp_path: Path) -> None:
    document = grow_checkpoint(run, tmp_path / "out", GrowOptions(iterations=5))
    assert load_model(tmp_path / "out").iterations == (5,)
    assert document["change"]["computed"] > 0
    assert "test/accuracy" in document["held_out"]


@pytest.mark.slow
def test_growth_of_one_script(tmp_path: Path) -> None:
    """Equal scripts are listed one by one in the recipe after one of them has grown."""
    train(load_small_recipe(tmp_path, "model.scripts=2", "train.steps=1"), tmp_path / "run")
    out = grow_run(tmp_path / "run", tmp_path / "one", add=1, script=1)
    assert [script.num_functions for script in LoadedCheckpoint.load(out).recipe.model.program] == [3, 4]
    both = grow_run(tmp_path / "run", tmp_path / "both", add=1)
    assert [script.num_functions for script in LoadedCheckpoint.load(both).recipe.model.program] == [4, 4]
    assert LoadedCheckpoint.load(both).recipe.model.scripts == 2
    with pytest.raises(UsageError) as caught:
        grow_checkpoint(both, tmp_path / "other", GrowOptions(remove="f3"))
    assert str(caught.value) == "this model has 2 scripts, counted from 0; choose one with --script"


def test_function_names_after_growth(tmp_path: Path) -> None:
    recipe = load_small_recipe(tmp_path)
    assert parse_functions(["f0", "f2"], recipe, None) == [FunctionRef(0, 0), FunctionRef(0, 2)]
    for name in ("f3", "f01", "2", "f-1", ""):
        with pytest.raises(UsageError) as caught:
            parse_functions([name], recipe, None)
        assert (
            str(caught.value)
            == f"{name or 'a function without a name'}: script 0 has the functions f0 to f2; name some of these"
        )


def test_origins_follow(tmp_path: Path) -> None:
    growth = remove_functions(
        add_functions(identity_plan(load_small_recipe(tmp_path)), 2, [0]), [FunctionRef(0, 0), FunctionRef(0, 3)]
    )
    assert growth.origins == {FunctionRef(0, 0): FunctionRef(0, 1), FunctionRef(0, 1): FunctionRef(0, 2)}
    assert growth.new_functions == [FunctionRef(0, 2)]


@pytest.mark.slow
def test_frozen_prefix_sizes(tmp_path: Path) -> None:
    """The frozen leading elements of each parameter, for each value of `train.trainable`."""
    grown = [
        "model.added_functions=[{functions: 2}]",
        "model.tasks={digits: 10, letters: 26}",
        "model.added_tasks=[letters]",
    ]

    def trained_parameters(trainable: str) -> set[str]:
        recipe = load_small_recipe(tmp_path, *grown, f"train.trainable={trainable}")
        parameters = build_meta_model(recipe).named_parameters()
        return {name for name, value in parameters if frozen_prefix_sizes(recipe).get(name, 0) < value.numel()}

    assert frozen_prefix_sizes(load_small_recipe(tmp_path, *grown)) == {}
    assert trained_parameters("[codes]") == {FUNCTION_PARAMETERS[1]}
    new = {"scripts.0.gates", *FUNCTION_PARAMETERS, "head.cls"} | {
        f"head.maps.1.{n}.{name}" for n in (0, 1) for name in ("weight", "bias")
    }
    assert trained_parameters("[grown]") == new
    routing = {name for name in trained_parameters("[routing]") if ".type_inference." not in name}
    assert routing == {FUNCTION_PARAMETERS[0], "scripts.0.router.log_bandwidth"}
    frozen_sizes = frozen_prefix_sizes(load_small_recipe(tmp_path, *grown, "train.trainable=[grown]"))
    assert frozen_sizes[FUNCTION_PARAMETERS[0]] == 3 * 4
    assert frozen_sizes[FUNCTION_PARAMETERS[1]] == 3 * 5
    assert frozen_sizes["head.cls"] == 12


def test_random_iterations(tmp_path: Path) -> None:
    """Their number depends on the seed and the step; the model's own number does not change."""
    from ni_framework import build_model
    from ni_framework.data.sampler import EpochSampler
    from ni_framework.engines.local import LocalEngine
    from ni_framework.model.compose import build_data

    recipe = load_small_recipe(tmp_path, "model.iterations=4", "train.random_iterations=true")
    order = EpochSampler(build_data(recipe).open()["train"], recipe.train.batch, recipe.seed)
    runs = []
    for _ in range(2):
        engine = LocalEngine(build_model(recipe), recipe)
        runs.append([len(engine.step(n, order[n], True).output.script_outputs[0].compatibility) for n in range(12)])
        assert engine.model.iterations == (4,)
    assert runs[0] == runs[1]
    assert set(runs[0]) == {1, 2, 3, 4}


def test_a_component_that_cannot_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has functions along another dimension than the first."""
    from ni_standard.type_inference import MLP

    original_init = MLP.__init__

    def init_with_extra(self: Any, config: Any, sizes: Any, build: Any) -> None:
        original_init(self, config, sizes, build)
        self.layers[0].extra = torch.nn.Parameter(torch.zeros(2, sizes.functions))

    monkeypatch.setattr(MLP, "__init__", init_with_extra)
    with pytest.raises(PluginError) as caught:
        infer_function_rows(load_small_recipe(tmp_path))
    assert str(caught.value) == (
        "error: scripts.0.type_inference.layers.0.extra goes from shape [2, 3] to [2, 4] as functions or tasks are added\n"
        "  help: a tensor can grow only by rows at the end of its first dimension"
    )


def test_failed_growth_leaves_no_files(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ni_framework.growth.grown_checkpoint.save_checkpoint", fail)
    with pytest.raises(OSError, match="No space"):
        grow_checkpoint(run, tmp_path / "out", GrowOptions(add=1))
    assert list(tmp_path.iterdir()) == []


def test_equal_scripts_stay_one_entry(tmp_path: Path) -> None:
    recipe = load_small_recipe(tmp_path, "model.scripts=3")
    assert with_scripts(recipe, recipe.model.program) == recipe
