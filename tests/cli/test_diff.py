"""`ni diff`: what differs between two checkpoints, and what they do with the same elements."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework import build_model, trace
from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.evaluation.function_usage import Chosen
from ni_framework.model.compose import build_data
from ni_framework.training.train import train
from tests.cli.conftest import Ni
from tests.helpers.small_recipe import rewritten, save_small, small_recipe

SIGNATURE, CODE = "scripts.0.embedding.signature", "scripts.0.embedding.code"
TENSORS = 36  # of the small model
ELEMENTS = 256 * 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small recipe, which all tests here look at."""
    folder = tmp_path_factory.mktemp("diff")
    train(small_recipe(folder, "train.steps=6", "model.router.bandwidth=0.1"), folder / "run")
    return folder / "run"


def edited(place: Path, run: Path, edit: Callable[[dict[str, Tensor]], object], *overrides: str) -> Path:
    """The run's checkpoint with other weights."""
    model, recipe = load_checkpoint(run)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edit(weights)
    recipe = small_recipe(place.parent, "train.steps=6", "model.router.bandwidth=0.1", *overrides)
    return save_small(place, recipe, 6, weights=weights)


def swap(*names: str) -> Callable[[dict[str, Tensor]], None]:
    """Makes f0 what f1 was, and the other way round."""

    def edit(weights: dict[str, Tensor]) -> None:
        for name in names:
            weights[name] = weights[name][torch.tensor([1, 0, 2])]

    return edit


def takers_of(run: Path) -> list[list[int]]:
    """How many elements each function of the run takes most of, by iteration; with a loop over elements."""
    model, recipe = load_checkpoint(run)
    batch = Chosen(build_data(recipe).open()["test"], 256).batch(torch.arange(256), None)
    counts = []
    for c_BUV in trace(model, batch.inputs).compatibility[0]:
        number = [0, 0, 0]
        for shares in c_BUV.transpose(1, 2).flatten(0, 1).tolist():
            number[max(range(3), key=shares.__getitem__)] += 1
        counts.append(number)
    return counts


def matrices(document: Any, script: int = 0) -> list[list[list[int]]]:
    return [iteration["matrix"] for iteration in document["routing"]["scripts"][script]["iterations"]]


def test_no_difference(ni: Ni, run: Path) -> None:
    """Is said of each part, with exit code 0; all elements stay."""
    done = ni("diff", run, find_checkpoint(run), "--routing", "--json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    side = {"checkpoint": str(find_checkpoint(run)), "recipe": "small", "step": 6, "weights": "last"}
    assert (found["a"], found["b"]) == (side, side)
    assert (found["recipe"], found["parameters"], found["lock"]) == ([], [], [])
    assert found["equal_parameters"] == TENSORS
    assert [of["moved"] for of in found["routing"]["scripts"][0]["iterations"]] == [0, 0]
    lines = ni("diff", run, run).out.splitlines()
    assert lines[0] == f"A: {find_checkpoint(run)}: small, step 6, last weights"
    assert lines[2:] == [
        "",
        "recipe: no difference",
        "",
        f"parameters: 0 tensors differ, {TENSORS} are equal",
        "",
        "made with: no difference",
    ]
    assert ni("diff", run, run, "--json").json["routing"] is None


def test_swapped_functions_swap_their_elements(ni: Ni, run: Path, tmp_path: Path) -> None:
    """With signatures and codes f0 is what f1 was: its elements move in every iteration, those of f2 stay."""
    other = edited(tmp_path / "other", run, swap(SIGNATURE, CODE))
    done = ni("diff", run, other, "--routing", "--json").json
    counts = takers_of(run)
    assert all(min(of) > 0 for of in counts), "or a matrix would be too easy"
    routing = done["routing"]
    assert (routing["samples"], routing["inputs"], routing["elements"]) == (256, "held-out samples of B", "all")
    assert matrices(done) == [[[0, n0, 0, 0], [n1, 0, 0, 0], [0, 0, n2, 0], [0, 0, 0, 0]] for n0, n1, n2 in counts]
    shares = [of["moved"] for of in routing["scripts"][0]["iterations"]]
    assert shares == pytest.approx([(n0 + n1) / ELEMENTS for n0, n1, _ in counts])
    by_name = {of["name"]: of for of in done["parameters"]}
    assert by_name.keys() == {SIGNATURE, CODE}
    assert done["equal_parameters"] == TENSORS - 2
    weights = load_checkpoint(run)[0].state_dict()
    for name, of in by_name.items():
        row = weights[name].double()
        apart = (row[0] - row[1]).norm()
        assert [function["name"] for function in of["functions"]] == ["f0", "f1"]
        expected = [(apart / row[number].norm()).item() for number in (0, 1)]
        assert [function["change"] for function in of["functions"]] == pytest.approx(expected)
        assert of["change"] == pytest.approx((2**0.5 * apart / row.norm()).item())


def test_swapped_signatures_move_the_first_iteration(ni: Ni, run: Path, tmp_path: Path) -> None:
    """Nothing has been computed before it; the text shows the counts."""
    other = edited(tmp_path / "other", run, swap(SIGNATURE))
    n0, n1, n2 = takers_of(run)[0]
    done = ni("diff", run, other, "--routing", "--json").json
    assert matrices(done)[0] == [[0, n0, 0, 0], [n1, 0, 0, 0], [0, 0, n2, 0], [0, 0, 0, 0]]
    lines = ni("diff", run, other, "--routing").out.splitlines()
    assert "routing, all elements of 256 held-out samples of B: who takes most, A (rows) to B (columns)" in lines
    at = lines.index(f"script0, iteration 0: {(n0 + n1) / ELEMENTS:.1%} of 1,280 elements moved")
    assert lines[at + 1].split() == ["f0", "f1", "f2", "none"]
    assert lines[at + 2].split() == ["f0", "0", f"{n0:,}", "0", "0"]
    assert lines[at + 5].split() == ["none", "0", "0", "0", "0"]


def test_added_functions(ni: Ni, run: Path, tmp_path: Path) -> None:
    """What a script has more of is told by name; the rest is compared row by row, and so is who takes what."""

    def grow(weights: dict[str, Tensor]) -> None:
        weights[SIGNATURE] = torch.cat([weights[SIGNATURE], -weights[SIGNATURE][:2]])
        weights[CODE] = torch.cat([weights[CODE], weights[CODE][:2]])
        weights[CODE][1] *= 1.5

    other = edited(tmp_path / "other", run, grow, "model.functions=5", "model.iterations=1")
    done = ni("diff", run, other, "--routing", "--json").json
    assert done["recipe"] == [
        {"key": "model.iterations", "a": 2, "b": 1, "only_in": None},
        {"key": "model.functions", "a": 3, "b": 5, "only_in": None},
    ]
    added = [{"name": name, "change": None, "only_in": "B"} for name in ("f3", "f4")]
    longer = {"name": "f1", "change": pytest.approx(0.5), "only_in": None}
    assert done["parameters"] == [
        {"name": CODE, "shape_a": [3, 5], "shape_b": [5, 5], "change": None, "functions": [longer, *added]},
        {"name": SIGNATURE, "shape_a": [3, 4], "shape_b": [5, 4], "change": None, "functions": added},
    ]
    (matrix,) = matrices(done)
    assert [len(row) for row in matrix] == [6] * 4
    assert [sum(row) for row in matrix] == [*takers_of(run)[0], 0]
    assert sum(matrix[u][v] for u in range(3) for v in range(3) if u != v) == 0, "none moves between the old ones"
    (iteration,) = done["routing"]["scripts"][0]["iterations"]
    to_new = sum(sum(row[3:]) for row in matrix)
    assert 0 < iteration["moved"] == pytest.approx(to_new / ELEMENTS)
    lines = [line.split() for line in ni("diff", other, run).out.splitlines()]
    assert [SIGNATURE, "5x4", "3x4", "f3", "to", "f4", "only", "in", "A"] in lines


def test_elements_that_no_function_takes(ni: Ni, run: Path, tmp_path: Path) -> None:
    """Are a column of their own."""
    other = edited(tmp_path / "other", run, lambda weights: None, "model.router.truncation=1e-7")
    done = ni("diff", run, other, "--routing", "--json").json
    assert done["recipe"] == [{"key": "model.router.truncation", "a": 1.42, "b": 1e-7, "only_in": None}]
    assert matrices(done)[0] == [[0, 0, 0, count] for count in takers_of(run)[0]] + [[0, 0, 0, 0]]
    assert [of["moved"] for of in done["routing"]["scripts"][0]["iterations"]] == [1, 1]
    larger = small_recipe(tmp_path, "model.router.truncation=1e-7", "model.functions=5")
    done = ni("diff", other, save_small(tmp_path / "larger", larger, 2), "--routing", "--json").json
    assert matrices(done)[0][3] == [0, 0, 0, 0, 0, ELEMENTS]
    assert [of["moved"] for of in done["routing"]["scripts"][0]["iterations"]] == [0, 0], "none is no function"


def test_other_parts(ni: Ni, run: Path, tmp_path: Path) -> None:
    """Tensors that only one side has, or in another shape; rows are not told where all have changed."""
    overrides = ("model.body.lines=2", "model.body.key=4", "seed=9", "model.scripts=[{}, {}]")
    other = save_small(tmp_path / "other", small_recipe(tmp_path, *overrides), 2)
    done = ni("diff", run, other, "--routing", "--json").json
    by_name = {of["name"]: of for of in done["parameters"]}
    first = "scripts.0.body.lines.{}.maps.query.weight"
    assert (by_name[first.format(1)]["shape_a"], by_name[first.format(1)]["shape_b"]) == (None, [8, 12])
    assert (by_name[first.format(0)]["shape_a"], by_name[first.format(0)]["shape_b"]) == ([6, 12], [8, 12])
    assert by_name[first.format(0)]["change"] is None
    assert by_name[CODE]["functions"] == []
    assert by_name[CODE]["change"] > 0.5
    assert len(done["routing"]["scripts"]) == 1, "the first is all that both have"
    keys = {of["key"]: of for of in done["recipe"]}
    assert keys["model.scripts"]["only_in"] == "A"
    assert (keys["model.scripts.1.body.lines"]["b"], keys["model.scripts.1.body.lines"]["only_in"]) == (2, "B")
    out = ni("diff", run, other).out
    assert f"and {len(done['parameters']) - 40} that changed less; --json has all" in out.splitlines()
    assert [first.format(1), "absent", "8x12"] in [line.split() for line in out.splitlines()]
    assert ["model.scripts", "1", "absent"] in [line.split() for line in out.splitlines()]


def test_from_nothing(ni: Ni, tmp_path: Path) -> None:
    """A change of zeros has no measure in parts of them."""
    recipe = small_recipe(tmp_path)
    weights = build_model(recipe).state_dict()
    one = save_small(tmp_path / "one", recipe, 2, weights=weights | {"head.maps.0.1.bias": torch.zeros(10)})
    other = save_small(tmp_path / "other", recipe, 2, weights=weights | {"head.maps.0.1.bias": torch.ones(10)})
    (change,) = ni("diff", one, other, "--json").json["parameters"]
    assert (change["name"], change["change"]) == ("head.maps.0.1.bias", None)
    rows = [line.split() for line in ni("diff", one, other).out.splitlines()]
    assert ["head.maps.0.1.bias", "10", "10", "from", "0"] in rows
    assert ["head.maps.0.1.bias", "10", "10", "100.00%"] in [
        line.split() for line in ni("diff", other, one).out.splitlines()
    ]


def test_what_they_were_made_with(ni: Ni, run: Path, tmp_path: Path) -> None:
    """Versions, components and data, key by key; seed and options stand in the recipe."""
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    lock: dict[str, Any] = json.loads((copy / "lock.json").read_text())
    lock["torch"] = "1.\x1b0"
    lock["seed"] = 77
    lock["data"]["train"]["samples"] = 7
    lock["components"]["model.body.linear"]["version"] = "9.9"
    lock["components"]["model.body"]["options"]["lines"] = 8
    del lock["components"]["model.head"]
    rewritten(copy, "lock.json", json.dumps(lock).encode())
    found = {of["key"]: of for of in ni("diff", run, copy, "--json").json["lock"]}
    head = {key for key in found if key.startswith("components.model.head.")}
    assert {found[key]["only_in"] for key in head} == {"A"}
    assert "components.model.head.version" in head
    assert found.keys() - head == {"torch", "data.train.samples", "components.model.body.linear.version"}
    assert (found["data.train.samples"]["a"], found["data.train.samples"]["b"]) == (1400, 7)
    out = ni("diff", run, copy).out
    assert ["torch", torch.__version__, "1.\\u001b0"] in [line.split() for line in out.splitlines()]
    assert "\x1b" not in out


def test_without_data(ni: Ni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden inputs of B do, and that is said."""
    monkeypatch.chdir(tmp_path)
    absent = "data={use: image_folder, root: photos, classes: 10, image: [1, 8, 8]}"
    place = save_small(tmp_path / "some", small_recipe(tmp_path, absent), 2)
    done = ni("diff", place, place, "--routing", "--json")
    assert done.code == 0
    assert done.err.startswith("not compared: held-out samples, so that the golden inputs were taken: ")
    assert "photos" in done.err
    assert (done.json["routing"]["samples"], done.json["routing"]["inputs"]) == (2, "golden inputs of B")
    assert [sum(map(sum, matrix)) for matrix in matrices(done.json)] == [10, 10]


def test_other_tasks(ni: Ni, run: Path, tmp_path: Path) -> None:
    """Only elements of the input are the same then."""
    two = "data={use: multitask, tasks: {one: {use: digits}, two: {use: digits}}}"
    other = save_small(tmp_path / "other", small_recipe(tmp_path, two), 2)
    done = ni("diff", other, run, "--routing", "--json").json
    assert done["routing"]["elements"] == "those of the input"
    assert [sum(map(sum, matrix)) for matrix in matrices(done)] == [256 * 4] * 2
    assert "routing, elements of the input of 256 held-out samples of B" in ni("diff", other, run, "--routing").out


def test_many_functions(ni: Ni, run: Path, tmp_path: Path) -> None:
    """The largest moves instead of a matrix."""
    other = save_small(tmp_path / "other", small_recipe(tmp_path, "model.functions=40"), 2)
    shown = ni("diff", run, other, "--routing").out
    matrix = matrices(ni("diff", run, other, "--routing", "--json").json)[0]
    count, one, two = min((-n, u, v) for u, row in enumerate(matrix[:3]) for v, n in enumerate(row) if u != v)
    lines = [line.split() for line in shown.splitlines()]
    at = lines.index(["from", "to", "elements"])
    assert lines[at + 1] == [f"f{one}", f"f{two}", str(-count)]
    assert lines[at + 11][:2] == ["script0,", "iteration"], "ten moves of each"
    assert "f3 to f39 only in B" in shown
    few = edited(tmp_path / "few", other, lambda weights: weights[CODE][:20].mul_(2), "model.functions=40")
    (row,) = [line for line in ni("diff", other, few).out.splitlines() if line.startswith(CODE)]
    assert row.endswith(", f11 100.00%, 8 more")


REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "another shape": (
        ("data=digits_multitask", "model.input.image=[3,16,16]"),
        "takes inputs of shape [1, 8, 8], {other} [3, 16, 16]",
    ),
    "other patches": (("model.input.patch=2",), "makes an input into so many elements: 4, {other} 16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_routing_needs_the_same_elements(name: str, ni: Ni, run: Path, tmp_path: Path) -> None:
    """Else it is refused, with the way out; the rest can be compared."""
    overrides, text = REFUSED[name]
    other = save_small(tmp_path / "other", small_recipe(tmp_path, *overrides), 2)
    assert ni("diff", run, other).code == 0
    done = ni("diff", run, other, "--routing")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: routing can be compared on the same elements only, but {find_checkpoint(run)} {text.format(other=other)}; "
        "leave out --routing, or name checkpoints with the same input\n"
    )


def test_bad_checkpoints(ni: Ni, run: Path, tmp_path: Path) -> None:
    """On either side: exit code 6, and which it is."""
    (tmp_path / "empty").mkdir()
    for pair in ((run, tmp_path / "empty"), (tmp_path / "empty", run)):
        done = ni("diff", *pair)
        assert (done.code, done.out) == (6, "")
        assert done.err == (
            f"error: {tmp_path / 'empty'}: holds no checkpoint; name a folder with a checkpoint.json, "
            "or a run that has saved one\n"
        )
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"")
    damaged = ni("diff", run, copy)
    assert damaged.code == 6
    assert f"{copy}/model.safetensors: is damaged (it has 0 bytes, not " in damaged.err
