"""`ni bench`: a table, a document, a picture, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.analysis import bench
from ni_framework.analysis.bench import Row, transformer_of
from ni_framework.model.flops import operations
from ni_framework.registry import load_recipe
from tests.cli.conftest import Ni

RECIPES = Path(__file__).parents[2] / "recipes"
BOTH = ("--execution", "dense", "--execution", "packed")
FAST = ("--rounds", "1", "--batch", "2")


def test_it_measures_without_data(ni: Ni, small: Path) -> None:
    """Every mode of every execution, and a transformer beside them; the recipe's data set has no files here."""
    text = (
        Path("small.yaml")
        .read_text()
        .replace("data: {use: digits}", "data: {use: idx, root: nowhere, image: [1, 8, 8]}")
    )
    Path("small.yaml").write_text(text)
    done = ni(
        "bench",
        "small.yaml",
        "model.router.truncation=1.0",
        "--execution",
        "dense",
        "--execution",
        "packed",
        "--json",
        *FAST,
    )
    assert done.code == 0, done.err
    rows = done.json["rows"]
    assert [(row["model"], row["execution"], row["mode"]) for row in rows] == [
        (model, execution, mode)
        for model, execution in (("interpreter", "dense"), ("interpreter", "packed"), ("transformer", "dense"))
        for mode in ("training", "inference", "one image")
    ]
    assert set(rows[0]) == {field.name for field in Row.__attrs_attrs__}  # pyright: ignore[reportAttributeAccessIssue]
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
    table = ni("bench", "small.yaml", "--execution", "dense", *FAST).out.splitlines()
    heads = ("model", "execution", "mode", "batch", "ms", "images/s", "of matrix rate", "open", "kept/image", "peak")
    assert table[0].split() == " ".join(heads).split()
    assert len(table) == 7


def test_every_script_is_computed_as_the_row_says(ni: Ni, small: Path) -> None:
    scripts = "model.scripts=[{}, {functions: 2, execution: packed}]"
    rows = ni("bench", "small.yaml", scripts, "model.router.truncation=0.9", *BOTH, "--json", *FAST).json["rows"]
    asked = operations(load_recipe("small.yaml", [scripts])).inference(2) // 2
    assert rows[1]["operations"] == asked > rows[4]["operations"]
    assert rows[0]["saved_bytes"] > rows[3]["saved_bytes"]


@pytest.mark.parametrize("name", ["digits.yaml", "digits_multitask.yaml", "paper/digits.yaml", "vit_digits.yaml"])
def test_the_transformer_takes_as_many_operations(name: str) -> None:
    """Within half a layer, of the same width and elements."""
    recipe = load_recipe(RECIPES / name)
    transformer = transformer_of(recipe)
    layers = len(transformer.model.program)
    found, wanted = operations(transformer).image, operations(recipe).image
    assert abs(found - wanted) <= 0.5 * found / layers + 1
    assert transformer.model.width == recipe.model.width
    assert transformer.model.program[0].functions == 1


def test_a_sweep_is_drawn(ni: Ni, small: Path) -> None:
    done = ni("bench", "small.yaml", "--sweep", "model.functions=1,3", "--execution", "dense", "--json", *FAST)
    assert done.code == 0, done.err
    assert done.json["plot"] == "sweep.png"
    assert Path("sweep.png").read_bytes().startswith(b"\x89PNG")
    training = [row for row in done.json["rows"] if row["mode"] == "training"]
    assert [row["sweep"] for row in training] == ["model.functions=1", "model.functions=3"]
    assert training[1]["saved_bytes"] > 1.5 * training[0]["saved_bytes"]
    assert all(row["model"] == "interpreter" for row in done.json["rows"])
    words = ni(
        "bench", "small.yaml", "--sweep", "model.pooling=sum,delta", "--execution", "dense", "--output", "a.png", *FAST
    )
    assert words.out.splitlines()[0] == "model.pooling=sum"
    assert words.out.splitlines()[-1] == "a.png"


def test_what_cannot_be_measured(ni: Ni, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told, and the rest measured; what makes no sense is refused before anything is."""
    straight = ni(
        "bench",
        "small.yaml",
        "model.router=straight_through_kernel",
        "--execution",
        "dense",
        "--execution",
        "packed",
        *FAST,
    )
    assert straight.code == 0
    assert "packed is left out: " in straight.err
    assert "passes gradient through closed pairs" in straight.err
    assert "packed" not in straight.out
    monkeypatch.setenv("PATH", str(small))
    monkeypatch.delenv("CXX", raising=False)
    bare = ni("bench", "small.yaml", "--execution", "dense", "--execution", "compiled", *FAST)
    assert "compiled is left out: engine.compile: torch needs a C++ compiler" in bare.err

    def too_small(*arguments: object) -> None:
        raise MemoryError("cannot allocate")

    monkeypatch.setattr(bench.Subject, "run", too_small)
    full = ni("bench", "small.yaml", *FAST)
    assert (full.code, full.err.splitlines()[-1]) == (7, "error: does not fit this machine; lower --batch")
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
        done = ni("bench", *arguments)
        assert done.code == code, arguments
        assert text in done.err
        assert not done.out
