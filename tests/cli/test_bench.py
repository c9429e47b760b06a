"""`ni bench`: its table, its document, the plot of a sweep, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.analysis import bench
from ni_framework.analysis.bench import BenchRow, build_transformer_recipe
from ni_framework.model.flops import count_flops
from ni_framework.registry import load_recipe
from tests.cli.conftest import RunNi

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
BOTH_EXECUTIONS = ("--execution", "dense", "--execution", "packed")
FAST_OPTIONS = ("--rounds", "1", "--batch", "2")


def test_bench_measures_without_data(ni: RunNi, small_recipe_dir: Path) -> None:
    """All modes of all executions and a transformer are measured, although the files of the data set are missing."""
    text = (
        Path("small.yaml")
        .read_text()
        .replace("data: {use: digits}", "data: {use: idx, root: nowhere, image: [1, 8, 8]}")
    )
    Path("small.yaml").write_text(text)
    result = ni(
        "bench",
        "small.yaml",
        "model.router.truncation=1.0",
        "--execution",
        "dense",
        "--execution",
        "packed",
        "--json",
        *FAST_OPTIONS,
    )
    assert result.code == 0, result.err
    rows = result.json["rows"]
    assert [(row["model"], row["execution"], row["mode"]) for row in rows] == [
        (model, execution, mode)
        for model, execution in (("interpreter", "dense"), ("interpreter", "packed"), ("transformer", "dense"))
        for mode in ("training", "inference", "one image")
    ]
    assert set(rows[0]) == {field.name for field in BenchRow.__attrs_attrs__}  # pyright: ignore[reportAttributeAccessIssue]
    for row in rows:
        assert row["batch"] == (1 if row["mode"] == "one image" else 2)
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["milliseconds"])
        assert 0 < row["share_of_matrix_rate"] < 2
        assert (row["saved_bytes"] > 0) == (row["mode"] == "training")
        assert row["peak_bytes"] >= row["saved_bytes"]
    dense, packed, transformer = rows[0], rows[3], rows[6]
    assert 0 < dense["open_fraction"] < 1
    assert transformer["open_fraction"] == 1
    assert packed["operations"] < dense["operations"]
    assert dense["operations"] == 3 * rows[1]["operations"]
    table = ni("bench", "small.yaml", "--execution", "dense", *FAST_OPTIONS).out.splitlines()
    header = "model execution mode batch ms images/s % of peak matmul open activations/image peak"
    assert table[0].split() == header.split()
    assert len(table) == 7


def test_execution_applies_to_every_script(ni: RunNi, small_recipe_dir: Path) -> None:
    scripts = "model.scripts=[{}, {functions: 2, execution: packed}]"
    rows = ni(
        "bench", "small.yaml", scripts, "model.router.truncation=0.9", *BOTH_EXECUTIONS, "--json", *FAST_OPTIONS
    ).json["rows"]
    recipe_flops = count_flops(load_recipe("small.yaml", [scripts])).forward_flops(2) // 2
    assert rows[1]["operations"] == recipe_flops
    assert rows[4]["operations"] < recipe_flops, "packed execution computes open pairs only"
    assert rows[0]["saved_bytes"] > rows[3]["saved_bytes"]


@pytest.mark.parametrize("name", ["digits.yaml", "digits_multitask.yaml", "paper/digits.yaml", "vit_digits.yaml"])
def test_transformer_has_equal_flops(name: str) -> None:
    """The transformer has the same width, and the same FLOPs up to half a layer."""
    recipe = load_recipe(RECIPES / name)
    transformer = build_transformer_recipe(recipe)
    layers = len(transformer.model.program)
    transformer_flops, recipe_flops = count_flops(transformer).per_image, count_flops(recipe).per_image
    assert abs(transformer_flops - recipe_flops) <= 0.5 * transformer_flops / layers + 1
    assert transformer.model.width == recipe.model.width
    assert transformer.model.program[0].functions == 1


def test_sweep_writes_plot(ni: RunNi, small_recipe_dir: Path) -> None:
    result = ni(
        "bench", "small.yaml", "--sweep", "model.functions=1,3", "--execution", "dense", "--json", *FAST_OPTIONS
    )
    assert result.code == 0, result.err
    assert result.json["plot"] == "sweep.png"
    assert Path("sweep.png").read_bytes().startswith(b"\x89PNG")
    training = [row for row in result.json["rows"] if row["mode"] == "training"]
    assert [row["sweep"] for row in training] == ["model.functions=1", "model.functions=3"]
    assert training[1]["saved_bytes"] > 1.5 * training[0]["saved_bytes"]
    assert all(row["model"] == "interpreter" for row in result.json["rows"])
    result = ni(
        "bench",
        "small.yaml",
        "--sweep",
        "model.pooling=sum,delta",
        "--execution",
        "dense",
        "--output",
        "a.png",
        *FAST_OPTIONS,
    )
    assert result.out.splitlines()[0] == "model.pooling=sum"
    assert result.out.splitlines()[-1] == "a.png"


def test_bench_errors(ni: RunNi, small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Executions that do not work are reported and skipped; invalid arguments are rejected before anything is measured."""
    straight_through = ni(
        "bench",
        "small.yaml",
        "model.router=straight_through_kernel",
        "--execution",
        "dense",
        "--execution",
        "packed",
        *FAST_OPTIONS,
    )
    assert straight_through.code == 0
    assert "packed is skipped: " in straight_through.err
    assert "passes gradient through closed pairs" in straight_through.err
    assert "packed" not in straight_through.out
    monkeypatch.setenv("PATH", str(small_recipe_dir))
    monkeypatch.delenv("CXX", raising=False)
    without_compiler = ni("bench", "small.yaml", "--execution", "dense", "--execution", "compiled", *FAST_OPTIONS)
    assert "compiled is skipped: engine.compile: torch needs a C++ compiler" in without_compiler.err

    def raise_memory_error(*arguments: object) -> None:
        raise MemoryError("cannot allocate")

    monkeypatch.setattr(bench.Subject, "run", raise_memory_error)
    out_of_memory = ni("bench", "small.yaml", *FAST_OPTIONS)
    assert out_of_memory.code == 7
    assert out_of_memory.err.splitlines()[-1] == "error: does not fit this machine; lower --batch"
    cases = {
        ("small.yaml", "--output", "a.png"): (2, "--output names the plot of a sweep; give --sweep too"),
        ("small.yaml", "--sweep", "model.functions"): (
            2,
            "--sweep model.functions: expected a key and values, as in model.functions=1,2,4,8,16",
        ),
        ("small.yaml", "--sweep", "model.functions=4"): (2, "expected a key and values"),
        ("small.yaml", "--sweep", "model.functions=1,0"): (3, "model.functions: must be at least 1, not 0"),
        ("absent.yaml",): (3, "absent.yaml"),
    }
    for arguments, (code, text) in cases.items():
        result = ni("bench", *arguments)
        assert result.code == code, arguments
        assert text in result.err
        assert not result.out
