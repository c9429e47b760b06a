"""`ni diff`: the differences between two checkpoints, and their routing of the same elements."""

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
from ni_framework.evaluation.function_usage import SampledSplit
from ni_framework.model.compose import build_data
from ni_framework.training.train import train
from tests.cli.conftest import RunNi
from tests.helpers.small_recipe import load_small_recipe, rewrite_checkpoint_file, save_small_checkpoint

SIGNATURE, CODE = "scripts.0.embedding.signature", "scripts.0.embedding.code"
# The number of tensors of the small model.
TENSOR_COUNT = 36
ELEMENT_COUNT = 256 * 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a run of the small recipe, which all tests of this module compare with others."""
    folder = tmp_path_factory.mktemp("diff")
    train(load_small_recipe(folder, "train.steps=6", "model.router.bandwidth=0.1"), folder / "run")
    return folder / "run"


def edit_checkpoint(place: Path, run: Path, edit: Callable[[dict[str, Tensor]], object], *overrides: str) -> Path:
    """The run's checkpoint with other weights."""
    model, recipe = load_checkpoint(run)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edit(weights)
    recipe = load_small_recipe(place.parent, "train.steps=6", "model.router.bandwidth=0.1", *overrides)
    return save_small_checkpoint(place, recipe, 6, weights=weights)


def swap_functions(*names: str) -> Callable[[dict[str, Tensor]], None]:
    """Swaps the rows of f0 and f1 in these tensors."""

    def edit(weights: dict[str, Tensor]) -> None:
        for name in names:
            weights[name] = weights[name][torch.tensor([1, 0, 2])]

    return edit


def count_assigned_elements(run: Path) -> list[list[int]]:
    """Counts with a loop how many elements are assigned to each function of the run, by iteration."""
    model, recipe = load_checkpoint(run)
    batch = SampledSplit(build_data(recipe).open()["test"], 256).batch(torch.arange(256), None)
    counts = []
    for c_BUV in trace(model, batch.inputs).compatibility[0]:
        counts_by_function = [0, 0, 0]
        for shares in c_BUV.transpose(1, 2).flatten(0, 1).tolist():
            counts_by_function[max(range(3), key=shares.__getitem__)] += 1
        counts.append(counts_by_function)
    return counts


def assignment_matrices(document: Any, script: int = 0) -> list[list[list[int]]]:
    return [iteration["matrix"] for iteration in document["routing"]["scripts"][script]["iterations"]]


def reassigned_fractions(document: Any) -> list[float]:
    """Returns the fraction of elements that changed their function in each iteration of the first script."""
    return [iteration["moved"] for iteration in document["routing"]["scripts"][0]["iterations"]]


def test_no_difference(ni: RunNi, run: Path) -> None:
    """Equal checkpoints have no differences in any section, and no element changes its function."""
    result = ni("diff", run, find_checkpoint(run), "--routing", "--json")
    assert (result.code, result.err) == (0, "")
    document = result.json
    side = {"checkpoint": str(find_checkpoint(run)), "recipe": "small", "step": 6, "weights": "last"}
    assert document["a"] == side
    assert document["b"] == side
    assert document["recipe"] == []
    assert document["parameters"] == []
    assert document["lock"] == []
    assert document["equal_parameters"] == TENSOR_COUNT
    assert reassigned_fractions(document) == [0, 0]
    lines = ni("diff", run, run).out.splitlines()
    assert lines[0] == f"A: {find_checkpoint(run)}: small, step 6, last weights"
    assert lines[2:] == [
        "",
        "recipe: no difference",
        "",
        f"parameters: 0 tensors differ, {TENSOR_COUNT} are equal",
        "",
        "made with: no difference",
    ]
    assert ni("diff", run, run, "--json").json["routing"] is None


def test_swapped_functions(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """If f0 and f1 are swapped, their elements change function in every iteration, and those of f2 do not."""
    other = edit_checkpoint(tmp_path / "other", run, swap_functions(SIGNATURE, CODE))
    result = ni("diff", run, other, "--routing", "--json").json
    counts = count_assigned_elements(run)
    assert all(min(iteration) > 0 for iteration in counts), "every function must take some elements"
    routing = result["routing"]
    assert routing["samples"] == 256
    assert routing["inputs"] == "held-out samples of B"
    assert routing["elements"] == "all"
    assert assignment_matrices(result) == [
        [[0, n0, 0, 0], [n1, 0, 0, 0], [0, 0, n2, 0], [0, 0, 0, 0]] for n0, n1, n2 in counts
    ]
    assert reassigned_fractions(result) == pytest.approx([(n0 + n1) / ELEMENT_COUNT for n0, n1, _ in counts])
    by_name = {parameter["name"]: parameter for parameter in result["parameters"]}
    assert by_name.keys() == {SIGNATURE, CODE}
    assert result["equal_parameters"] == TENSOR_COUNT - 2
    weights = load_checkpoint(run)[0].state_dict()
    for name, parameter in by_name.items():
        rows = weights[name].double()
        distance = (rows[0] - rows[1]).norm()
        assert [function["name"] for function in parameter["functions"]] == ["f0", "f1"]
        expected = [(distance / rows[number].norm()).item() for number in (0, 1)]
        assert [function["change"] for function in parameter["functions"]] == pytest.approx(expected)
        assert parameter["change"] == pytest.approx((2**0.5 * distance / rows.norm()).item())


def test_swapped_signatures(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Swapped signatures swap the elements of the first iteration; the text shows the counts."""
    other = edit_checkpoint(tmp_path / "other", run, swap_functions(SIGNATURE))
    n0, n1, n2 = count_assigned_elements(run)[0]
    result = ni("diff", run, other, "--routing", "--json").json
    assert assignment_matrices(result)[0] == [[0, n0, 0, 0], [n1, 0, 0, 0], [0, 0, n2, 0], [0, 0, 0, 0]]
    lines = ni("diff", run, other, "--routing").out.splitlines()
    assert (
        "routing, all elements of 256 held-out samples of B: elements by their function in A (rows) and B (columns)"
        in lines
    )
    at = lines.index(f"script0, iteration 0: {(n0 + n1) / ELEMENT_COUNT:.1%} of 1,280 elements changed function")
    assert lines[at + 1].split() == ["f0", "f1", "f2", "none"]
    assert lines[at + 2].split() == ["f0", "0", f"{n0:,}", "0", "0"]
    assert lines[at + 5].split() == ["none", "0", "0", "0", "0"]


def test_added_functions(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Added functions are listed by name; the others are compared row by row, as is the routing."""

    def grow(weights: dict[str, Tensor]) -> None:
        weights[SIGNATURE] = torch.cat([weights[SIGNATURE], -weights[SIGNATURE][:2]])
        weights[CODE] = torch.cat([weights[CODE], weights[CODE][:2]])
        weights[CODE][1] *= 1.5

    other = edit_checkpoint(tmp_path / "other", run, grow, "model.functions=5", "model.iterations=1")
    result = ni("diff", run, other, "--routing", "--json").json
    assert result["recipe"] == [
        {"key": "model.iterations", "a": 2, "b": 1, "only_in": None},
        {"key": "model.functions", "a": 3, "b": 5, "only_in": None},
    ]
    added = [{"name": name, "change": None, "only_in": "B"} for name in ("f3", "f4")]
    longer = {"name": "f1", "change": pytest.approx(0.5), "only_in": None}
    assert result["parameters"] == [
        {"name": CODE, "shape_a": [3, 5], "shape_b": [5, 5], "change": None, "functions": [longer, *added]},
        {"name": SIGNATURE, "shape_a": [3, 4], "shape_b": [5, 4], "change": None, "functions": added},
    ]
    (matrix,) = assignment_matrices(result)
    assert [len(row) for row in matrix] == [6] * 4
    assert [sum(row) for row in matrix] == [*count_assigned_elements(run)[0], 0]
    assert sum(matrix[u][v] for u in range(3) for v in range(3) if u != v) == 0, (
        "no element moves between existing functions"
    )
    (iteration,) = result["routing"]["scripts"][0]["iterations"]
    reassigned_to_added = sum(sum(row[3:]) for row in matrix)
    assert reassigned_to_added > 0
    assert iteration["moved"] == pytest.approx(reassigned_to_added / ELEMENT_COUNT)
    lines = [line.split() for line in ni("diff", other, run).out.splitlines()]
    assert [SIGNATURE, "5x4", "3x4", "f3", "to", "f4", "only", "in", "A"] in lines


def test_elements_without_function(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Elements that no function takes are counted in the last row and column."""
    other = edit_checkpoint(tmp_path / "other", run, lambda weights: None, "model.router.truncation=1e-7")
    result = ni("diff", run, other, "--routing", "--json").json
    assert result["recipe"] == [{"key": "model.router.truncation", "a": 1.42, "b": 1e-7, "only_in": None}]
    assert assignment_matrices(result)[0] == [[0, 0, 0, count] for count in count_assigned_elements(run)[0]] + [
        [0, 0, 0, 0]
    ]
    assert reassigned_fractions(result) == [1, 1]
    larger = load_small_recipe(tmp_path, "model.router.truncation=1e-7", "model.functions=5")
    result = ni("diff", other, save_small_checkpoint(tmp_path / "larger", larger, 2), "--routing", "--json").json
    assert assignment_matrices(result)[0][3] == [0, 0, 0, 0, 0, ELEMENT_COUNT]
    assert reassigned_fractions(result) == [0, 0], "elements without a function in both models have not changed"


def test_different_modules(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Tensors may be on one side only, or have different shapes; single rows are not listed if all have changed."""
    overrides = ("model.body.lines=2", "model.body.key=4", "seed=9", "model.scripts=[{}, {}]")
    other = save_small_checkpoint(tmp_path / "other", load_small_recipe(tmp_path, *overrides), 2)
    result = ni("diff", run, other, "--routing", "--json").json
    by_name = {parameter["name"]: parameter for parameter in result["parameters"]}
    first = "scripts.0.body.lines.{}.maps.query.weight"
    assert (by_name[first.format(1)]["shape_a"], by_name[first.format(1)]["shape_b"]) == (None, [8, 12])
    assert (by_name[first.format(0)]["shape_a"], by_name[first.format(0)]["shape_b"]) == ([6, 12], [8, 12])
    assert by_name[first.format(0)]["change"] is None
    assert by_name[CODE]["functions"] == []
    assert by_name[CODE]["change"] > 0.5
    assert len(result["routing"]["scripts"]) == 1, "only the first script is in both models"
    keys = {change["key"]: change for change in result["recipe"]}
    assert keys["model.scripts"]["only_in"] == "A"
    assert (keys["model.scripts.1.body.lines"]["b"], keys["model.scripts.1.body.lines"]["only_in"]) == (2, "B")
    out = ni("diff", run, other).out
    assert f"and {len(result['parameters']) - 40} that changed less; --json has all" in out.splitlines()
    assert [first.format(1), "absent", "8x12"] in [line.split() for line in out.splitlines()]
    assert ["model.scripts", "1", "absent"] in [line.split() for line in out.splitlines()]


def test_change_from_zero(ni: RunNi, tmp_path: Path) -> None:
    """A tensor of zeros has no relative change."""
    recipe = load_small_recipe(tmp_path)
    weights = build_model(recipe).state_dict()
    one = save_small_checkpoint(tmp_path / "one", recipe, 2, weights=weights | {"head.maps.0.1.bias": torch.zeros(10)})
    other = save_small_checkpoint(
        tmp_path / "other", recipe, 2, weights=weights | {"head.maps.0.1.bias": torch.ones(10)}
    )
    (change,) = ni("diff", one, other, "--json").json["parameters"]
    assert (change["name"], change["change"]) == ("head.maps.0.1.bias", None)
    rows = [line.split() for line in ni("diff", one, other).out.splitlines()]
    assert ["head.maps.0.1.bias", "10", "10", "from", "0"] in rows
    assert ["head.maps.0.1.bias", "10", "10", "100.00%"] in [
        line.split() for line in ni("diff", other, one).out.splitlines()
    ]


def test_lockfiles_are_compared(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Versions, components and data are compared key by key, except seed and options, which are in the recipe."""
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    lock: dict[str, Any] = json.loads((copy / "lock.json").read_text())
    lock["torch"] = "1.\x1b0"
    lock["seed"] = 77
    lock["data"]["train"]["samples"] = 7
    lock["components"]["model.body.linear"]["version"] = "9.9"
    lock["components"]["model.body"]["options"]["lines"] = 8
    del lock["components"]["model.head"]
    rewrite_checkpoint_file(copy, "lock.json", json.dumps(lock).encode())
    document = {change["key"]: change for change in ni("diff", run, copy, "--json").json["lock"]}
    head = {key for key in document if key.startswith("components.model.head.")}
    assert {document[key]["only_in"] for key in head} == {"A"}
    assert "components.model.head.version" in head
    assert document.keys() - head == {"torch", "data.train.samples", "components.model.body.linear.version"}
    assert (document["data.train.samples"]["a"], document["data.train.samples"]["b"]) == (1400, 7)
    out = ni("diff", run, copy).out
    assert ["torch", torch.__version__, "1.\\u001b0"] in [line.split() for line in out.splitlines()]
    assert "\x1b" not in out


def test_without_data(ni: RunNi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the data, the golden inputs of B are used, and the reason is reported."""
    monkeypatch.chdir(tmp_path)
    absent = "data={use: image_folder, root: photos, classes: 10, image: [1, 8, 8]}"
    place = save_small_checkpoint(tmp_path / "some", load_small_recipe(tmp_path, absent), 2)
    result = ni("diff", place, place, "--routing", "--json")
    assert result.code == 0
    assert result.err.startswith("not compared: held-out samples, so the golden inputs were used: ")
    assert "photos" in result.err
    assert (result.json["routing"]["samples"], result.json["routing"]["inputs"]) == (2, "golden inputs of B")
    assert [sum(map(sum, matrix)) for matrix in assignment_matrices(result.json)] == [10, 10]


def test_different_tasks(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Models with different CLS elements are compared on the elements of the input only."""
    two = "data={use: multitask, tasks: {one: {use: digits}, two: {use: digits}}}"
    other = save_small_checkpoint(tmp_path / "other", load_small_recipe(tmp_path, two), 2)
    result = ni("diff", other, run, "--routing", "--json").json
    assert result["routing"]["elements"] == "those of the input"
    assert [sum(map(sum, matrix)) for matrix in assignment_matrices(result)] == [256 * 4] * 2
    assert "routing, elements of the input of 256 held-out samples of B" in ni("diff", other, run, "--routing").out


def test_many_functions(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """For many functions, the text lists the largest counts instead of a matrix."""
    other = save_small_checkpoint(tmp_path / "other", load_small_recipe(tmp_path, "model.functions=40"), 2)
    text = ni("diff", run, other, "--routing").out
    matrix = assignment_matrices(ni("diff", run, other, "--routing", "--json").json)[0]
    count, one, two = min((-n, u, v) for u, row in enumerate(matrix[:3]) for v, n in enumerate(row) if u != v)
    lines = [line.split() for line in text.splitlines()]
    at = lines.index(["from", "to", "elements"])
    assert lines[at + 1] == [f"f{one}", f"f{two}", str(-count)]
    assert lines[at + 11][:2] == ["script0,", "iteration"], "ten counts of each iteration are listed"
    assert "f3 to f39 only in B" in text
    few = edit_checkpoint(tmp_path / "few", other, lambda weights: weights[CODE][:20].mul_(2), "model.functions=40")
    (row,) = [line for line in ni("diff", other, few).out.splitlines() if line.startswith(CODE)]
    assert row.endswith(", f11 100.00%, 8 more")


INCOMPARABLE_CHECKPOINTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "different shape": (
        ("data=digits_multitask", "model.input.image=[3,16,16]"),
        "takes inputs of shape [1, 8, 8], {other} [3, 16, 16]",
    ),
    "different patches": (("model.input.patch=2",), "has this number of elements for an input: 4, {other} 16"),
}


@pytest.mark.parametrize("name", INCOMPARABLE_CHECKPOINTS)
def test_routing_needs_the_same_elements(name: str, ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Routing of different elements cannot be compared; everything else can."""
    overrides, text = INCOMPARABLE_CHECKPOINTS[name]
    other = save_small_checkpoint(tmp_path / "other", load_small_recipe(tmp_path, *overrides), 2)
    assert ni("diff", run, other).code == 0
    result = ni("diff", run, other, "--routing")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"error: routing can only be compared on the same elements, but {find_checkpoint(run)} {text.format(other=other)}; "
        "remove --routing, or name checkpoints with the same input\n"
    )


def test_invalid_checkpoints(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """An invalid checkpoint on either side ends with exit code 6 and is named."""
    (tmp_path / "empty").mkdir()
    for pair in ((run, tmp_path / "empty"), (tmp_path / "empty", run)):
        result = ni("diff", *pair)
        assert (result.code, result.out) == (6, "")
        assert result.err == (
            f"error: {tmp_path / 'empty'}: contains no checkpoint; name a folder with a checkpoint.json, "
            "or a run that has saved one\n"
        )
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"")
    damaged = ni("diff", run, copy)
    assert damaged.code == 6
    assert f"{copy}/model.safetensors: is damaged (it has 0 bytes, not " in damaged.err
