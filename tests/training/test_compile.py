"""`engine.compile`: the same training, made faster by torch.compile, and the error without a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework import build_model
from ni_framework.contracts import Batch
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import RunError
from ni_framework.nn.random import rng_keys
from ni_framework.recipe import Recipe
from tests.helpers.small_recipe import load_small_recipe

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")


def train_three_steps(recipe: Recipe) -> list[float]:
    """Returns the losses of three steps; the third one depends on the gradients of the first two."""
    engine = LocalEngine(build_model(recipe), recipe)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(3):
        inputs = torch.rand(8, 1, 8, 8, generator=generator)
        target = torch.randint(10, (8,), generator=generator)
        batch = Batch(inputs, {"digits": target}, key=rng_keys(step, torch.arange(8)))
        losses.append(engine.step(step, batch, trace=False).values["loss"].item())
    return losses


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("execution", ["dense", "packed"])
def test_compiled_losses_equal_eager_losses(execution: str, tmp_path: Path) -> None:
    """Nothing in a body breaks the graph, even if the number of rows changes from step to step."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    overrides = [f"model.execution={execution}", "model.router.truncation=1.1", "model.iterations=2"]
    eager = train_three_steps(load_small_recipe(tmp_path, *overrides))
    compiled = train_three_steps(load_small_recipe(tmp_path, *overrides, "engine.compile=true"))
    assert compiled == pytest.approx(eager, rel=1e-4)
    counters: Any = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 4
    torch._dynamo.reset()


def test_compile_without_a_compiler_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_small_recipe(tmp_path, "engine.compile=true")
    model = build_model(recipe)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError) as caught:
        LocalEngine(model, recipe)
    assert str(caught.value) == (
        "engine.compile: torch needs a C++ compiler, and there is no g++ or clang++ here; "
        "install one, or set engine.compile=false"
    )
