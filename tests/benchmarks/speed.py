"""The figures of speed, each beside what it is compared with, alternating in one run: `python tests/benchmarks/speed.py`.

Takes about five minutes on two CPU cores, which should have nothing else to do: two threads that wait for each other lose
more than a busy machine takes. Each comparison has a process of its own, as a training has. Ends with exit code 1 if a
figure is missed; `python tests/benchmarks/speed.py sparse` measures one comparison alone.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import torch
from attrs import frozen
from torch import Tensor, nn

from ni_framework import build_model, load_recipe
from ni_framework.analysis.bench import MATRIX, transformer_of
from ni_framework.contracts import Context, Router
from ni_framework.model import compose
from ni_framework.model.flops import counted, operations
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.registry import recipe_in
from ni_framework.utils.malloc import keep_freed_memory

PAPER = Path(__file__).parents[2] / "recipes" / "paper" / "digits.yaml"
ROUNDS = 11
SPARSE = """
ni: 1
model:
  width: 192
  input: {use: entities, entities: 66, features: 32}
  iterations: 8
  functions: 16
  code: 192
  type: 24
  body: {use: lines_of_code, heads: 4, key: 32}
data: {use: digits}
train: {steps: 1, batch: 16}
"""


class Top(Router):
    """The `number` functions that fit an element's type best share it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        fit_BUV = torch.einsum("bvt,ut->buv", type_BVT, signature_UT)
        best = fit_BUV.topk(self.number, dim=1)
        return torch.zeros_like(fit_BUV).scatter(1, best.indices, torch.softmax(best.values, dim=1))


@frozen
class Entities:
    """The shape and task of the sparse recipe's data, of which there are none."""

    shape: tuple[int, ...] = (66, 32)
    tasks: Mapping[str, int] = {"task": 10}


def main(*names: str) -> int:
    """Prints what each comparison found, and compares it with its bounds."""
    comparisons = {of.__name__: of for of in (preset, modularity, encoder, sparse)}
    if len(names) != 1:
        command = [sys.executable, __file__]
        return max(subprocess.run([*command, name]).returncode for name in names or comparisons)
    keep_freed_memory()
    torch.manual_seed(0)
    return 0 if comparisons[names[0]]() else 1


def preset() -> bool:
    """Share of the matrix rate of `recipes/paper/digits.yaml`, batch 32: training and inference, and one image."""
    recipe = load_recipe(PAPER)
    model, images = build_model(recipe), torch.rand(32, 3, 32, 32)
    seconds = alternated(
        {
            "step": step_of(model, images),
            "matrices": matrices(),
            "inference": forward_of(model, images),
            "one image": forward_of(model, images[:1]),
        }
    )
    rate, asked = 2 * MATRIX**3 / seconds["matrices"], operations(recipe).inference(32)
    training, inference = 3 * asked / seconds["step"] / rate, asked / seconds["inference"] / rate
    print(
        f"matrix rate {rate / 1e9:.0f} GFLOP/s; a step takes {seconds['step']:.3f} s, {3 * asked / 32e9:.2f} GFLOP an image"
    )
    print(f"one image in {1e3 * seconds['one image']:.1f} ms")
    return all(
        [
            told("training, share of the matrix rate", training, training >= 0.7, "at least 0.70"),
            told("inference, share of the matrix rate", inference, inference >= 0.6, "at least 0.60"),
        ]
    )


def modularity() -> bool:
    """The preset beside the transformer of equal width, elements and operations."""
    recipe = load_recipe(PAPER)
    images, other = torch.rand(32, 3, 32, 32), transformer_of(recipe)
    seconds = alternated(
        {"interpreter": step_of(build_model(recipe), images), "transformer": step_of(build_model(other), images)}
    )
    per_operation = {
        "interpreter": seconds["interpreter"] / operations(recipe).image,
        "transformer": seconds["transformer"] / operations(other).image,
    }
    ratio = per_operation["interpreter"] / per_operation["transformer"]
    return told("interpreter / transformer, time of an operation", ratio, ratio <= 1.05, "at most 1.05")


def encoder() -> bool:
    """The transformer recipe beside torch's own encoder layers of the same shape."""
    layers = 12
    recipe = _with(
        transformer_of(load_recipe(PAPER)),
        f"model.scripts={layers}",
        "model.body={lines: 1, heads: 4, key: 48, bias: true, linear: plain}",
    )
    model, images = build_model(recipe), torch.rand(32, 3, 32, 32)
    layer = nn.TransformerEncoderLayer(192, 4, 192, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    x_BVD = torch.randn(32, 65, 192)
    seconds = alternated({"ours": step_of(model, images), "torch's": step_of(theirs, x_BVD)})
    ratio = seconds["ours"] / seconds["torch's"]
    return told("transformer recipe / torch's encoder layers", ratio, ratio <= 1.05, "at most 1.05")


def sparse() -> bool:
    """Sixteen functions of which an element takes one, two, ... all, beside one function and beside all computed."""
    entities = torch.randn(16, 66, 32)
    one, dense = sparse_model(1, "dense", 1), sparse_model(16, "dense", 1)
    packed = {taken: sparse_model(16, "packed", taken) for taken in (1, 2, 4, 8, 16)}
    work = {taken: counted(model, entities) for taken, model in packed.items()}
    seconds = alternated({"one": step_of(one, entities), "top 1": step_of(packed[1], entities)})
    against_one = seconds["top 1"] / seconds["one"]
    steps = {f"packed {taken}": step_of(model, entities) for taken, model in packed.items()}
    seconds = alternated({"dense": step_of(dense, entities)} | steps)
    against_dense = seconds["packed 1"] / seconds["dense"]
    cost = {taken: seconds[f"packed {taken}"] / work[taken] for taken in packed}
    times = [seconds[f"packed {taken}"] for taken in packed]
    slope, fixed = statistics.linear_regression(list(work.values()), times)
    for taken, spent in zip(packed, times, strict=True):
        asked, line = work[taken] / 16e6, fixed + slope * work[taken]
        print(
            f"{taken:2} of 16 open: {asked:6.0f} MFLOP an image forward, {1e3 * spent:6.1f} ms, {spent / line:.2f} of the line, "
            f"{cost[taken] / cost[16]:.2f} of what an operation costs with all open"
        )
    print(f"all 16 computed: {1e3 * seconds['dense']:.1f} ms; the line begins at {1e3 * fixed:.1f} ms")
    furthest = max(abs(spent / (fixed + slope * asked) - 1) for spent, asked in zip(times, work.values(), strict=True))
    return all(
        [
            told("top 1 of 16 functions / one function", against_one, against_one <= 1.3, "at most 1.30"),
            told("top 1 of 16 functions / all 16 computed", against_dense, against_dense <= 1 / 8, "at most 0.125"),
            told("furthest from the line of operations", furthest, furthest <= 0.25, "at most 0.25"),
        ]
    )


def sparse_model(functions: int, execution: str, taken: int) -> Interpreter:
    """The sparse recipe's model, with a router that takes so many functions for each element."""
    recipe = recipe_in(SPARSE, [f"model.functions={functions}", f"model.execution={execution}"])
    with mock.patch.object(compose, "build_data", return_value=Entities()):
        model = compose.build_model(recipe)
    for script in model.scripts:
        script.router = Top(taken)
    return model


def step_of(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """A training step: forward, back, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        answers = model(inputs)
        answers = list(answers.values()) if isinstance(answers, dict) else [answers]
        torch.stack([answer.square().mean() for answer in answers]).sum().backward()
        optimizer.step()

    return step


def forward_of(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    def forward() -> None:
        with torch.inference_mode():
            model(inputs)

    return forward


def matrices() -> Callable[[], object]:
    matrix, out = torch.randn(MATRIX, MATRIX), torch.empty(MATRIX, MATRIX)
    return lambda: torch.mm(matrix, matrix, out=out)


def alternated(sides: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each side, taken in turn: of the first the median, of the others its multiple."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name in list(sides) * 2:
        sides[name]()
    for round_ in range(ROUNDS):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - start)
        print(f"\r{', '.join(sides)}: {round_ + 1} of {ROUNDS}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    first = next(iter(sides))
    # Ratios to the first side, round by round, so that a machine that slows down for a while slows both.
    ratios = {
        name: statistics.median(a / b for a, b in zip(of, found[first], strict=True)) for name, of in found.items()
    }
    base = statistics.median(found[first])
    return {name: base * ratio for name, ratio in ratios.items()}


def told(figure: str, value: float, met: bool, bound: str) -> bool:
    print(f"{figure}: {value:.3f} ({bound}){'' if met else '  MISSED'}", flush=True)
    return met


def _with(recipe: Recipe, *overrides: str) -> Recipe:
    from ni_framework.recipe import dump

    return recipe_in(dump(recipe), overrides, recipe.name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
