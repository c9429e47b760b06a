"""`ni inspect`: the functions, metrics and origin of a trained model, as text and as a JSON document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.analysis.inspect import FunctionReport, FunctionUse, NearestFunction, is_dead
from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.cli.inspect import FUNCTIONS_PER_GROUP, select_functions
from ni_framework.training.train import train
from tests.cli.conftest import RunNi
from tests.helpers.small_recipe import load_small_recipe, rewrite_checkpoint_file, save_small_checkpoint

ABSENT_DATA = "data={use: image_folder, root: photos, classes: 10, image: [1, 8, 8]}"
# Orthogonal directions in type space.
UNIT_TYPES = torch.eye(4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a run of the small recipe, which all tests of this module inspect."""
    folder = tmp_path_factory.mktemp("inspect")
    train(load_small_recipe(folder, "train.steps=4", "train.ema_decay=0.9"), folder / "run")
    return folder / "run"


def set_signatures(
    folder: Path, run: Path, signature_UT: Tensor, code_UC: Tensor | None = None, **changes: Any
) -> Path:
    """Saves the run's checkpoint with all types in one direction, so that the signatures alone determine the routing."""
    model, recipe = load_checkpoint(run)
    with torch.no_grad():
        weights = model.state_dict()
        weights["scripts.0.type_inference.layers.3.weight"].zero_()
        weights["scripts.0.type_inference.layers.3.bias"].copy_(UNIT_TYPES[0])
        weights["scripts.0.embedding.signature"].copy_(signature_UT)
        if code_UC is not None:
            weights["scripts.0.embedding.code"].copy_(code_UC)
    return save_small_checkpoint(folder, recipe, 4, weights=weights, **changes)


def test_document(ni: RunNi, run: Path) -> None:
    """The metrics are those of `ni eval`, and the other values are those of the checkpoint."""
    document = ni("inspect", run, "--json").json
    lock = json.loads((find_checkpoint(run) / "lock.json").read_text())
    assert document["checkpoint"] == str(find_checkpoint(run))
    assert document["recipe"] == "small"
    assert document["step"] == 4
    assert document["weights"] == "averaged"
    assert document["parameters"] == 1806
    assert document["tasks"] == {"digits": 10}
    assert document["samples"] == 397
    assert document["seconds"] > 0
    assert document["metrics"] == ni("eval", run, "--json").json["metrics"]
    assert document["lock"] == lock
    assert document["golden_samples"] == 2
    assert document["golden_differences"] == []
    assert document["left_out"] == []
    (script,) = document["scripts"]
    assert script["name"] == "script0"
    assert script["iterations"] == 2
    uses = [function["use"] for function in script["functions"]]
    assert [function["name"] for function in script["functions"]] == ["f0", "f1", "f2"]
    for use in uses:
        assert use["overall"] == pytest.approx(sum(use["by_iteration"]) / 2)
        assert use["by_task"] == {"digits": pytest.approx(use["overall"])}
        assert 0 < use["overall"] <= use["open"] <= 1
        assert use["dead"] is False
    distances = script["signature_distances"]
    assert [distances[n][n] for n in range(3)] == [0, 0, 0]
    for number, function in enumerate(script["functions"]):
        others = [(distance, f"f{n}") for n, distance in enumerate(distances[number]) if n != number]
        assert (function["nearest"]["signature_distance"], function["nearest"]["function"]) == min(others)
        assert function["twins"] == []


def test_text(ni: RunNi, run: Path) -> None:
    """The text has the same values as tables, without control sequences because stdout is not a terminal."""
    result = ni("inspect", run)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith(f"{find_checkpoint(run)}: small, step 4 after ")
    assert lines[0].endswith(" s, 1,806 parameters, averaged weights")
    assert "held out, 397 samples" in lines
    assert "script0: 3 functions x 2 iterations" in lines
    assert "golden batch of 2 samples: same outputs as when saved" in lines
    (header,) = [line.split() for line in lines if line.startswith("function ") and "nearest" in line]
    assert header == ["function", "use", "open", "nearest", "by", "signature", "by", "code"]
    assert ["model.router", "router", "kernel", "ni-framework", "0.1.0"] in [line.split() for line in lines]
    assert ["train", "1400"] in [line.split()[:2] for line in lines]
    assert "use by task" not in lines, "there is only one task"
    assert "\x1b" not in result.out


def test_dead_functions_and_twins(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """All types are at f0 and f2, which share each element; f1 is opposite and closed to all elements."""
    code_UC = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    code_UC[2] = 1.01 * code_UC[0]
    folder = set_signatures(
        tmp_path / "planted", run, torch.stack([UNIT_TYPES[0], -UNIT_TYPES[0], 2 * UNIT_TYPES[0]]), code_UC
    )
    document = ni("inspect", folder, "--json").json
    functions = document["scripts"][0]["functions"]
    half = pytest.approx(0.5, abs=1e-5)
    assert [function["use"]["overall"] for function in functions] == [half, 0, half]
    assert [function["use"]["by_iteration"] for function in functions] == [[half, half], [0, 0], [half, half]]
    assert [function["use"]["open"] for function in functions] == [1, 0, 1]
    assert [function["use"]["dead"] for function in functions] == [False, True, False]
    assert [function["twins"] for function in functions] == [["f2"], [], ["f0"]]
    assert document["scripts"][0]["signature_distances"] == [[0, 2, 0], [2, 0, 2], [0, 2, 0]]
    assert functions[0]["nearest"] == {
        "function": "f2",
        "signature_distance": 0,
        "code_distance": pytest.approx(0.01**2 / (1 + 1.01**2), rel=1e-3),
    }
    lines = ni("inspect", folder).out.splitlines()
    assert "dead: f1" in lines
    assert "twins: f0 and f2" in lines
    rows = [line.split() for line in lines]
    assert ["f1", "dead", "0.0%", "0.0%", "f0", "2"] in [row[:6] for row in rows]
    assert ["f2", "twin", "50.0%", "100.0%", "f0", "0"] in [row[:6] for row in rows]
    assert ["f1", "2.000", "0.000", "2.000"] in rows


def test_twins_need_equal_codes(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Functions with equal signatures but different codes are not twins."""
    folder = set_signatures(tmp_path / "planted", run, UNIT_TYPES[:1].expand(3, 4))
    functions = ni("inspect", folder, "--json").json["scripts"][0]["functions"]
    assert [function["twins"] for function in functions] == [[], [], []]
    for function in functions:
        assert function["nearest"]["signature_distance"] == 0
        assert function["nearest"]["code_distance"] > 0


def test_is_dead() -> None:
    """A function is dead below 0.1 % in every iteration for every task that has samples.

    In a script of many functions, the limit is 2 % of an equal share.
    """
    nan = torch.nan
    assert is_dead(torch.tensor([[[0.0009, 0.0011], [nan, nan]], [[0.0, 0.0], [nan, nan]]])).tolist() == [True, False]
    assert is_dead(torch.tensor([[[0.0, 0.0]], [[0.0, 0.5]]])).tolist() == [True, False]
    use_U = torch.full((1000,), 1e-3)
    use_U[0], use_U[1] = 1.9e-5, 2.1e-5
    assert is_dead(use_U[None, None]).nonzero().flatten().tolist() == [0]


def test_samples_option(ni: RunNi, run: Path) -> None:
    """--samples limits the number of held-out samples, and must be at least 1."""
    document = ni("inspect", run, "--samples", 5, "--json").json
    assert document["samples"] == 5
    assert 5 * document["metrics"]["test/accuracy"] == pytest.approx(round(5 * document["metrics"]["test/accuracy"]))
    invalid = ni("inspect", run, "--samples", 0)
    assert invalid.code == 2
    assert invalid.err.startswith("error: Invalid value for '--samples': 0 is not in the range x>=1.")


def test_without_data(ni: RunNi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the data, the reason is reported and everything else is result."""
    monkeypatch.chdir(tmp_path)
    save_small_checkpoint(tmp_path / "some", load_small_recipe(tmp_path, ABSENT_DATA), 2)
    document = ni("inspect", "some", "--json")
    assert document.code == 0
    assert document.json["samples"] is None
    assert document.json["metrics"] is None
    assert document.json["left_out"] == [document.err.removeprefix("not measured: ").rstrip("\n")]
    assert document.err.startswith("not measured: use and metrics: ")
    assert "photos" in document.err
    functions = document.json["scripts"][0]["functions"]
    assert [function["use"] for function in functions] == [None, None, None]
    assert all(function["nearest"] for function in functions)
    lines = ni("inspect", "some").out.splitlines()
    assert "script0: 3 functions x 2 iterations" in lines
    assert ["f0", "-", "-"] in [line.split()[:3] for line in lines]
    assert not any(line.startswith(("held out", "use by", "dead")) for line in lines)


def test_several_tasks_and_scripts(ni: RunNi, tmp_path: Path) -> None:
    """The use is reported for each task; the only function of a script has no nearest function."""
    overrides = ("data=digits_multitask", "model.input.image=[3,16,16]", "model.scripts=[{}, {functions: 1}]")
    folder = save_small_checkpoint(tmp_path / "some", load_small_recipe(tmp_path, *overrides), 2)
    document = ni("inspect", folder, "--samples", 60, "--json").json
    first, second = document["scripts"]
    tasks = ["plain", "textured", "tinted"]
    assert [*document["tasks"]] == tasks
    for function in first["functions"]:
        by_task = function["use"]["by_task"]
        assert [*by_task] == tasks
        assert function["use"]["overall"] == pytest.approx(sum(by_task.values()) / 3)
    assert second["name"] == "script1"
    assert second["functions"][0]["nearest"] is None
    lines = ni("inspect", folder, "--samples", 60).out.splitlines()
    assert lines.count("use by task") == 2
    assert lines.count("distances of signatures (1 - cos)") == 1


def test_golden_outputs_differ(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """A model whose golden outputs differ is shown with the differences; the exit code is 0."""
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    other = save_small_checkpoint(tmp_path / "other", load_small_recipe(tmp_path, "seed=9"), 4)
    rewrite_checkpoint_file(copy, "golden.safetensors", (other / "golden.safetensors").read_bytes())
    result = ni("inspect", copy, "--samples", 2)
    assert result.code == 0
    assert (
        "golden batch of 2 samples: outputs differ from when saved\n  golden batch, digits: outputs differ by"
        in result.out
    )


def test_lockfile_text_is_escaped(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Control sequences in a lockfile are not printed."""
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    lock = json.loads((copy / "lock.json").read_text())
    lock |= {"torch": "1\x1b[31m", "data": {"tr\x1bain": {"samples": "\r7", "sha256": 3}, "test": None}}
    rewrite_checkpoint_file(copy, "lock.json", json.dumps(lock).encode())
    result = ni("inspect", copy, "--samples", 2)
    assert result.code == 0
    assert not {"\x1b", "\r"} & set(result.out)
    assert "torch      1\\u001b[31m" in result.out


def test_invalid_checkpoints(ni: RunNi, run: Path, tmp_path: Path) -> None:
    """Absent and damaged checkpoints end with exit code 6."""
    absent = ni("inspect", "nowhere")
    assert (absent.code, absent.out) == (6, "")
    assert absent.err == "error: nowhere: there is no such checkpoint; name a checkpoint folder or a run folder\n"
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    (copy / "average.safetensors").write_bytes(b"")
    damaged = ni("inspect", copy)
    assert damaged.code == 6
    assert f"{copy}/average.safetensors: is damaged (it has 0 bytes, not " in damaged.err


@pytest.mark.slow
def test_many_functions(ni: RunNi, tmp_path: Path) -> None:
    """The text shows a selection of the functions, the document has all."""
    folder = save_small_checkpoint(tmp_path / "some", load_small_recipe(tmp_path, "model.functions=1000"), 2)
    text = ni("inspect", folder, "--samples", 2).out
    assert "script0: 1,000 functions x 2 iterations" in text
    assert len(text.splitlines()) < 100
    assert "of them: the first, the most and least used, and those nearest to another; --json has all" in text
    functions = ni("inspect", folder, "--samples", 2, "--json").json["scripts"][0]["functions"]
    assert [function["name"] for function in functions] == [f"f{number}" for number in range(1000)]


def test_select_functions() -> None:
    """The first, the most and least used, and the nearest functions are selected once each, in order."""
    near = {40: 0.001, 700: 0.001}
    use = {500: 0.2, 600: 0.0}
    functions = [
        FunctionReport(
            f"f{number}",
            FunctionUse(use.get(number, 0.001), [], {}, 1.0, False),
            NearestFunction("f0", near.get(number, 0.5), 0.5),
            [],
        )
        for number in range(1000)
    ]
    selected = [function.name for function in select_functions(functions)]
    assert {*(f"f{number}" for number in range(FUNCTIONS_PER_GROUP)), "f40", "f500", "f600", "f700"} <= {*selected}
    assert selected == sorted({*selected}, key=lambda name: int(name[1:]))
    assert len(selected) <= 4 * FUNCTIONS_PER_GROUP
    assert select_functions(functions[: 4 * FUNCTIONS_PER_GROUP]) == functions[: 4 * FUNCTIONS_PER_GROUP]


def test_gates_of_added_functions(ni: RunNi, run: Path, tmp_path: Path) -> None:
    from ni_framework.growth.grow import GrowOptions, grow_checkpoint

    grow_checkpoint(run, tmp_path / "grown", GrowOptions(add=2))
    document = json.loads(ni("inspect", str(tmp_path / "grown"), "--samples", "8", "--json").out)
    gates = [function["gate"] for function in document["scripts"][0]["functions"]]
    assert gates[-2:] == [0.0, 0.0]
    assert set(gates[:-2]) == {None}
    assert "  gate" in ni("inspect", str(tmp_path / "grown"), "--samples", "8").out
