"""Recipes that are too large to be built here: golden texts, sizes, and the memory that their comments state."""

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

from ni_framework.analysis.memory_tracker import MemoryTracker
from ni_framework.model.compose import build_model
from ni_framework.model.summary import summarize_model
from ni_framework.recipe import dump
from ni_framework.registry import load_recipe
from tests.golden.test_recipes import LARGE_RECIPES, RECIPES, golden_path

PARAMETER_COUNTS = {"scale/100m": 1e8, "scale/1b": 1e9, "scale/10b": 1e10}
SHOW_SCRIPT = """
import contextlib, io, re
from ni_framework.cli.app import ni
for path in {paths!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        ni.main(["show", path], standalone_mode=False)
    assert "parameters" in out.getvalue()
    # The largest memory of the process so far.
    print(re.search("VmHWM: *(\\d+) kB", open("/proc/self/status").read().replace("\\t", " "))[1])
"""


class RealBytesCounter(TorchDispatchMode):
    """Counts the bytes of results of operations that are not on the meta device."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and not leaf.is_meta]
        self.bytes += sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        return result


@pytest.mark.parametrize("name", LARGE_RECIPES)
def test_large_recipe_has_not_changed(name: str) -> None:
    """The text has the values, then one line for each tensor: name, number of tensors like it, shape."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    description = summarize_model(recipe)
    lines = [
        f"{row.name} {row.repeats} {'x'.join(map(str, row.shape or ())) or 'scalar'}" for row in description.tensor_rows
    ]
    summary = f"{dump(recipe)}\n# {description.one_line}\n" + "\n".join(lines) + "\n"
    if os.environ.get("NI_REWRITE"):
        golden_path(name).parent.mkdir(parents=True, exist_ok=True)
        golden_path(name).write_text(summary, encoding="utf-8")
    assert summary == golden_path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LARGE_RECIPES)
def test_large_recipe_has_the_size_in_its_name(name: str) -> None:
    """Within 10 %. It has several equal scripts, since stage 3 gathers a script as a whole."""
    description = summarize_model(load_recipe(RECIPES / f"{name}.yaml"))
    assert description.sizes["parameters"] == pytest.approx(PARAMETER_COUNTS[name], rel=0.1)
    (script,) = (row for row in description.module_rows if row.name.startswith("scripts.") and row.name.count(".") == 1)
    assert script.repeats == len(description.sizes["scripts"])
    assert script.numel < 0.2 * description.sizes["parameters"]


@pytest.mark.parametrize("name", LARGE_RECIPES)
def test_large_recipe_is_built_without_memory(name: str) -> None:
    """All tensors are on the meta device, and no others were created while the model was built."""
    with RealBytesCounter() as real:
        model = build_model(load_recipe(RECIPES / f"{name}.yaml"), "meta")
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert real.bytes < 1e6


def test_the_counter_counts_real_memory() -> None:
    with RealBytesCounter() as real:
        build_model(load_recipe(RECIPES / "digits.yaml"))
    assert real.bytes > 4 * 55_403


@pytest.mark.slow
def test_showing_the_largest_recipe_takes_no_memory() -> None:
    """`ni show` needs less than 200 MB more for it than for the digits recipe."""
    paths = [str(RECIPES / f"{name}.yaml") for name in ("digits", "scale/10b")]
    done = subprocess.run(
        [sys.executable, "-c", SHOW_SCRIPT.format(paths=paths)], capture_output=True, text=True, check=True, timeout=120
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_RECIPES)
def test_memory_of_an_iteration_is_that_in_the_comments(name: str) -> None:
    """The numbers in the comments at the head of the recipes, for one iteration with all pairs open.

    The backward pass needs 780 bytes x width x elements, and the stored state before the iteration 4 bytes x width x elements.
    They are measured in bf16 on a narrower script with the same proportions, as the memory for one more image.
    """
    model_config = load_recipe(RECIPES / f"{name}.yaml").model
    key = model_config.width // model_config.body.options.heads
    narrow = [
        f"model.width={2 * key}",
        "model.body.heads=2",
        f"model.body.hidden={model_config.body.options.hidden * 2 * key // model_config.width}",
        "model.scripts=1",
        "model.router.truncation=2.0",
    ]
    recipe = load_recipe(RECIPES / f"{name}.yaml", narrow)
    assert recipe.train.activation_checkpointing == "iteration"
    assert recipe.train.precision == "bf16"
    (script,) = build_model(recipe).scripts
    script.activation_checkpointing = "iteration"

    def measure(images: int) -> tuple[int, int]:
        x_BVD = torch.zeros(images, elements, 2 * key)
        with MemoryTracker() as forward, torch.autocast("cpu", torch.bfloat16):
            output_BVD = script(x_BVD).output_BVD
            saved = forward.live_bytes
        with MemoryTracker() as backward:
            output_BVD.float().sum().backward()
        return saved, backward.peak_bytes

    elements = summarize_model(recipe).sizes["elements"]
    saved, peak = ((two - one) / (elements * 2 * key) for one, two in zip(measure(1), measure(2), strict=True))
    assert saved == pytest.approx(4 * recipe.model.iterations, rel=0.1)
    assert peak == pytest.approx(780, rel=0.05)
