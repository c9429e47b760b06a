"""Recipes too large to be given values here: what they are, that no memory is needed to see it, and what their heads count."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ni_framework.analysis.memory_tracker import LiveBytes
from ni_framework.model.compose import build_model
from ni_framework.model.summary import describe
from ni_framework.recipe import dump
from ni_framework.registry import load_recipe
from tests.golden.test_recipes import LARGE, RECIPES, golden_of

SIZES = {"scale/100m": 1e8, "scale/1b": 1e9, "scale/10b": 1e10}
SHOW = """
import contextlib, io, re
from ni_framework.cli.app import ni
for path in {paths!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        ni.main(["show", path], standalone_mode=False)
    assert "parameters" in out.getvalue()
    print(re.search("VmHWM: *(\\d+) kB", open("/proc/self/status").read().replace("\\t", " "))[1])  # the most so far
"""


class Real(TorchDispatchMode):
    """Counts the bytes of what operations answer that does not lie on the meta device."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and not leaf.is_meta]
        self.bytes += sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        return result


@pytest.mark.parametrize("name", LARGE)
def test_large_recipe_is_as_it_was(name: str) -> None:
    """Values, then one line per tensor: name, how many equal ones, shape."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    description = describe(recipe)
    lines = [f"{row.name} {row.times} {'x'.join(map(str, row.shape or ())) or 'scalar'}" for row in description.tensors]
    found = f"{dump(recipe)}\n# {description.summary}\n" + "\n".join(lines) + "\n"
    if os.environ.get("NI_REWRITE"):
        golden_of(name).parent.mkdir(parents=True, exist_ok=True)
        golden_of(name).write_text(found, encoding="utf-8")
    assert found == golden_of(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LARGE)
def test_large_recipe_is_as_large_as_its_name_says(name: str) -> None:
    """Within a tenth; in equal scripts, since stage 3 gathers one as a whole."""
    description = describe(load_recipe(RECIPES / f"{name}.yaml"))
    assert description.sizes["parameters"] == pytest.approx(SIZES[name], rel=0.1)
    (script,) = (row for row in description.parts if row.name.startswith("scripts.") and row.name.count(".") == 1)
    assert script.times == len(description.sizes["scripts"])
    assert script.each < 0.2 * description.sizes["parameters"]


@pytest.mark.parametrize("name", LARGE)
def test_large_recipe_is_built_without_memory(name: str) -> None:
    """Everything lies on the meta device, and nothing was made elsewhere on the way."""
    with Real() as real:
        model = build_model(load_recipe(RECIPES / f"{name}.yaml"), "meta")
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert real.bytes < 1e6


def test_real_memory_is_seen() -> None:
    with Real() as real:
        build_model(load_recipe(RECIPES / "digits.yaml"))
    assert real.bytes > 4 * 55_403


def test_showing_the_largest_recipe_takes_no_memory() -> None:
    """The process grows by less than 200 MB beyond what showing the digits takes."""
    paths = [str(RECIPES / f"{name}.yaml") for name in ("digits", "scale/10b")]
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(paths=paths)], capture_output=True, text=True, check=True, timeout=120
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 200_000


@pytest.mark.parametrize("name", LARGE)
def test_memory_of_an_iteration_is_what_the_heads_calculate_with(name: str) -> None:
    """780 bytes x width x elements on the way back through an iteration with all pairs open, and 4 for the state before it.

    Counted in bf16 on a script that is narrower, in the same proportions: what one more image takes.
    """
    given = load_recipe(RECIPES / f"{name}.yaml").model
    key = given.width // given.body.options.heads
    narrow = [
        f"model.width={2 * key}",
        "model.body.heads=2",
        f"model.body.hidden={given.body.options.hidden * 2 * key // given.width}",
        "model.scripts=1",
        "model.router.truncation=2.0",
    ]
    recipe = load_recipe(RECIPES / f"{name}.yaml", narrow)
    assert recipe.train.recompute == "iteration"
    assert recipe.train.precision == "bf16"
    (script,) = build_model(recipe).scripts
    script.recompute = "iteration"

    def counted(images: int) -> tuple[int, int]:
        x_BVD = torch.zeros(images, elements, 2 * key)
        with LiveBytes() as forward, torch.autocast("cpu", torch.bfloat16):
            output_BVD = script(x_BVD).output_BVD
            kept = forward.live
        with LiveBytes() as back:
            output_BVD.float().sum().backward()
        return kept, back.peak

    elements = describe(recipe).sizes["elements"]
    kept, back = ((b - a) / (elements * 2 * key) for a, b in zip(counted(1), counted(2), strict=True))
    assert kept == pytest.approx(4 * recipe.model.iterations, rel=0.1)
    assert back == pytest.approx(780, rel=0.05)
