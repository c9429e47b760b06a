"""`ni inspect`: functions, figures and origin of a trained model, in text and as one document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ni_framework.analysis.inspect import Function, Nearest, Use, is_dead
from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.cli.inspect import FEW, shown_of
from ni_framework.training.train import train
from tests.cli.conftest import Ni
from tests.helpers.small_recipe import rewritten, save_small, small_recipe

ABSENT = "data={use: image_folder, root: photos, classes: 10, image: [1, 8, 8]}"
E = torch.eye(4)  # directions in type space


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small recipe, which all tests here look at."""
    folder = tmp_path_factory.mktemp("inspect")
    train(small_recipe(folder, "train.steps=4", "train.average=0.9"), folder / "run")
    return folder / "run"


def planted(place: Path, run: Path, signature_UT: Tensor, code_UC: Tensor | None = None, **changes: Any) -> Path:
    """The run's checkpoint with all types in one direction, so that signatures alone decide who takes what."""
    model, recipe = load_checkpoint(run)
    with torch.no_grad():
        weights = model.state_dict()
        weights["scripts.0.type_inference.layers.3.weight"].zero_()
        weights["scripts.0.type_inference.layers.3.bias"].copy_(E[0])
        weights["scripts.0.embedding.signature"].copy_(signature_UT)
        if code_UC is not None:
            weights["scripts.0.embedding.code"].copy_(code_UC)
    return save_small(place, recipe, 4, weights=weights, **changes)


def test_a_trained_model(ni: Ni, run: Path) -> None:
    """Its figures are those of `ni eval`; what it says of itself is what the checkpoint says."""
    found = ni("inspect", run, "--json").json
    lock = json.loads((find_checkpoint(run) / "lock.json").read_text())
    assert found["checkpoint"] == str(find_checkpoint(run))
    assert (found["recipe"], found["step"], found["weights"]) == ("small", 4, "averaged")
    assert (found["parameters"], found["tasks"], found["samples"]) == (1806, {"digits": 10}, 397)
    assert found["seconds"] > 0
    assert found["metrics"] == ni("eval", run, "--json").json["metrics"]
    assert found["lock"] == lock
    assert (found["golden_samples"], found["golden_differences"], found["left_out"]) == (2, [], [])
    (script,) = found["scripts"]
    assert (script["name"], script["iterations"]) == ("script0", 2)
    uses = [of["use"] for of in script["functions"]]
    assert [of["name"] for of in script["functions"]] == ["f0", "f1", "f2"]
    for use in uses:
        assert use["overall"] == pytest.approx(sum(use["by_iteration"]) / 2)
        assert use["by_task"] == {"digits": pytest.approx(use["overall"])}
        assert 0 < use["overall"] <= use["open"] <= 1
        assert use["dead"] is False
    distances = script["signature_distances"]
    assert [distances[n][n] for n in range(3)] == [0, 0, 0]
    for number, of in enumerate(script["functions"]):
        others = [(distance, f"f{n}") for n, distance in enumerate(distances[number]) if n != number]
        assert (of["nearest"]["signature_distance"], of["nearest"]["function"]) == min(others)
        assert of["twins"] == []


def test_text(ni: Ni, run: Path) -> None:
    """The same as tables, in plain characters where stdout is no terminal."""
    shown = ni("inspect", run)
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"{find_checkpoint(run)}: small, step 4 after ")
    assert lines[0].endswith(" s, 1,806 parameters, averaged weights")
    assert "held out, 397 samples" in lines
    assert "script0: 3 functions x 2 iterations" in lines
    assert "golden batch of 2 samples: the model answers as it did" in lines
    (header,) = [line.split() for line in lines if line.startswith("function ") and "nearest" in line]
    assert header == ["function", "use", "open", "nearest", "by", "signature", "by", "code"]
    assert ["model.router", "router", "kernel", "ni-framework", "0.1.0"] in [line.split() for line in lines]
    assert ["train", "1400"] in [line.split()[:2] for line in lines]
    assert "use by task" not in lines, "there is one task"
    assert "\x1b" not in shown.out


def test_dead_functions_and_twins(ni: Ni, run: Path, tmp_path: Path) -> None:
    """All types lie at f0 and f2, which share each element; f1 lies opposite and is open for none."""
    code_UC = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    code_UC[2] = 1.01 * code_UC[0]
    place = planted(tmp_path / "planted", run, torch.stack([E[0], -E[0], 2 * E[0]]), code_UC)
    found = ni("inspect", place, "--json").json
    functions = found["scripts"][0]["functions"]
    half = pytest.approx(0.5, abs=1e-5)
    assert [of["use"]["overall"] for of in functions] == [half, 0, half]
    assert [of["use"]["by_iteration"] for of in functions] == [[half, half], [0, 0], [half, half]]
    assert [of["use"]["open"] for of in functions] == [1, 0, 1]
    assert [of["use"]["dead"] for of in functions] == [False, True, False]
    assert [of["twins"] for of in functions] == [["f2"], [], ["f0"]]
    assert found["scripts"][0]["signature_distances"] == [[0, 2, 0], [2, 0, 2], [0, 2, 0]]
    assert functions[0]["nearest"] == {
        "function": "f2",
        "signature_distance": 0,
        "code_distance": pytest.approx(0.01**2 / (1 + 1.01**2), rel=1e-3),
    }
    lines = ni("inspect", place).out.splitlines()
    assert "dead: f1" in lines
    assert "twins: f0 and f2" in lines
    rows = [line.split() for line in lines]
    assert ["f1", "dead", "0.0%", "0.0%", "f0", "2"] in [row[:6] for row in rows]
    assert ["f2", "twin", "50.0%", "100.0%", "f0", "0"] in [row[:6] for row in rows]
    assert ["f1", "2.000", "0.000", "2.000"] in rows


def test_a_code_of_its_own_is_no_twin(ni: Ni, run: Path, tmp_path: Path) -> None:
    """Equal signatures are not enough."""
    place = planted(tmp_path / "planted", run, E[:1].expand(3, 4))
    functions = ni("inspect", place, "--json").json["scripts"][0]["functions"]
    assert [of["twins"] for of in functions] == [[], [], []]
    assert all(of["nearest"]["signature_distance"] == 0 < of["nearest"]["code_distance"] for of in functions)


def test_dead_is_what_nothing_uses() -> None:
    """Below 0.1 % in each iteration of each task; of many functions, below 2 % of an even share. Unasked tasks say nothing."""
    nan = torch.nan
    assert is_dead(torch.tensor([[[0.0009, 0.0011], [nan, nan]], [[0.0, 0.0], [nan, nan]]])).tolist() == [True, False]
    assert is_dead(torch.tensor([[[0.0, 0.0]], [[0.0, 0.5]]])).tolist() == [True, False]
    use_U = torch.full((1000,), 1e-3)
    use_U[0], use_U[1] = 1.9e-5, 2.1e-5
    assert is_dead(use_U[None, None]).nonzero().flatten().tolist() == [0]


def test_fewer_samples(ni: Ni, run: Path) -> None:
    """Are counted; at least one."""
    found = ni("inspect", run, "--samples", 5, "--json").json
    assert found["samples"] == 5
    assert 5 * found["metrics"]["test/accuracy"] == pytest.approx(round(5 * found["metrics"]["test/accuracy"]))
    refused = ni("inspect", run, "--samples", 0)
    assert refused.code == 2
    assert refused.err.startswith("error: Invalid value for '--samples': 0 is not in the range x>=1.")


def test_without_data(ni: Ni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so, names what it misses, and shows the rest."""
    monkeypatch.chdir(tmp_path)
    save_small(tmp_path / "some", small_recipe(tmp_path, ABSENT), 2)
    found = ni("inspect", "some", "--json")
    assert found.code == 0
    assert (found.json["samples"], found.json["metrics"]) == (None, None)
    assert found.json["left_out"] == [found.err.removeprefix("not measured: ").rstrip("\n")]
    assert found.err.startswith("not measured: use and metrics: ")
    assert "photos" in found.err
    functions = found.json["scripts"][0]["functions"]
    assert [of["use"] for of in functions] == [None, None, None]
    assert all(of["nearest"] for of in functions)
    lines = ni("inspect", "some").out.splitlines()
    assert "script0: 3 functions x 2 iterations" in lines
    assert ["f0", "-", "-"] in [line.split()[:3] for line in lines]
    assert not any(line.startswith(("held out", "use by", "dead")) for line in lines)


def test_several_tasks_and_scripts(ni: Ni, tmp_path: Path) -> None:
    """Each has its own use; a script of one function has nothing near it."""
    overrides = ("data=digits_multitask", "model.input.image=[3,16,16]", "model.scripts=[{}, {functions: 1}]")
    place = save_small(tmp_path / "some", small_recipe(tmp_path, *overrides), 2)
    found = ni("inspect", place, "--samples", 60, "--json").json
    first, second = found["scripts"]
    tasks = ["plain", "textured", "tinted"]
    assert [*found["tasks"]] == tasks
    for of in first["functions"]:
        by_task = of["use"]["by_task"]
        assert [*by_task] == tasks
        assert of["use"]["overall"] == pytest.approx(sum(by_task.values()) / 3)
    assert (second["name"], second["functions"][0]["nearest"]) == ("script1", None)
    lines = ni("inspect", place, "--samples", 60).out.splitlines()
    assert lines.count("use by task") == 2
    assert lines.count("distances of signatures (1 - cos)") == 1


def test_a_model_that_answers_otherwise(ni: Ni, run: Path, tmp_path: Path) -> None:
    """Is shown, and what differs is said: to look is no proof."""
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    other = save_small(tmp_path / "other", small_recipe(tmp_path, "seed=9"), 4)
    rewritten(copy, "golden.safetensors", (other / "golden.safetensors").read_bytes())
    done = ni("inspect", copy, "--samples", 2)
    assert done.code == 0
    assert (
        "golden batch of 2 samples: the model answers otherwise\n  golden batch, digits: outputs differ by" in done.out
    )


def test_words_of_a_lock_are_shown_as_text(ni: Ni, run: Path, tmp_path: Path) -> None:
    """No command of a terminal gets through."""
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    lock = json.loads((copy / "lock.json").read_text())
    lock |= {"torch": "1\x1b[31m", "data": {"tr\x1bain": {"samples": "\r7", "sha256": 3}, "test": None}}
    rewritten(copy, "lock.json", json.dumps(lock).encode())
    done = ni("inspect", copy, "--samples", 2)
    assert done.code == 0
    assert not {"\x1b", "\r"} & set(done.out)
    assert "torch      1\\u001b[31m" in done.out


def test_bad_checkpoints(ni: Ni, run: Path, tmp_path: Path) -> None:
    """End with 6 and say what is wrong."""
    absent = ni("inspect", "nowhere")
    assert (absent.code, absent.out) == (6, "")
    assert absent.err == "error: nowhere: there is no such checkpoint; name a checkpoint folder or a run folder\n"
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "copy")
    (copy / "average.safetensors").write_bytes(b"")
    damaged = ni("inspect", copy)
    assert damaged.code == 6
    assert f"{copy}/average.safetensors: is damaged (it has 0 bytes, not " in damaged.err


def test_a_thousand_functions(ni: Ni, tmp_path: Path) -> None:
    """The text fits a screen or two, the document has all."""
    place = save_small(tmp_path / "some", small_recipe(tmp_path, "model.functions=1000"), 2)
    shown = ni("inspect", place, "--samples", 2).out
    assert "script0: 1,000 functions x 2 iterations" in shown
    assert len(shown.splitlines()) < 100
    assert "of them: the first, those used most and least, and those nearest to another; --json has all" in shown
    functions = ni("inspect", place, "--samples", 2, "--json").json["scripts"][0]["functions"]
    assert [of["name"] for of in functions] == [f"f{number}" for number in range(1000)]


def test_those_that_stand_out_are_shown() -> None:
    """The first, the most and least used, the nearest: each once, in order."""
    near = {40: 0.001, 700: 0.001}
    use = {500: 0.2, 600: 0.0}
    functions = [
        Function(
            f"f{number}",
            Use(use.get(number, 0.001), [], {}, 1.0, False),
            Nearest("f0", near.get(number, 0.5), 0.5),
            [],
        )
        for number in range(1000)
    ]
    shown = [of.name for of in shown_of(functions)]
    assert {*(f"f{number}" for number in range(FEW)), "f40", "f500", "f600", "f700"} <= {*shown}
    assert shown == sorted({*shown}, key=lambda name: int(name[1:]))
    assert len(shown) <= 4 * FEW
    assert shown_of(functions[: 4 * FEW]) == functions[: 4 * FEW]


def test_gates_of_added_functions(ni: Ni, run: Path, tmp_path: Path) -> None:
    from ni_framework.growth.grow import Asked, grow

    grow(run, tmp_path / "grown", Asked(add=2))
    document = json.loads(ni("inspect", str(tmp_path / "grown"), "--samples", "8", "--json").out)
    gates = [of["gate"] for of in document["scripts"][0]["functions"]]
    assert gates[-2:] == [0.0, 0.0]
    assert set(gates[:-2]) == {None}
    assert "  gate" in ni("inspect", str(tmp_path / "grown"), "--samples", "8").out
