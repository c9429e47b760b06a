"""Benchmarks of speed, each compared with a reference, alternating in one run: `python tests/benchmarks/speed.py`.

Takes about five minutes on two CPU cores. The machine should be idle otherwise: a busy one slows down two threads that wait
for each other disproportionately. Each comparison runs in a new process, as a training does. Ends with exit code 1 if a bound
is missed; `python tests/benchmarks/speed.py sparse` runs one comparison alone.
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
from ni_framework.analysis.bench import CPU_MATRIX_SIZE, build_transformer_recipe
from ni_framework.contracts import Context, Router
from ni_framework.model import compose
from ni_framework.model.flops import count_flops, count_forward_flops
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.registry import load_recipe_text
from ni_framework.utils.malloc import keep_freed_memory

PAPER_DIGITS_RECIPE = Path(__file__).parents[2] / "recipes" / "paper" / "digits.yaml"
ROUNDS = 11
SPARSE_RECIPE = """
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


class TopFunctions(Router):
    """Takes the `number` functions that fit an element's type best, with compatibilities that sum to 1."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        fit_BUV = torch.einsum("bvt,ut->buv", type_BVT, signature_UT)
        best = fit_BUV.topk(self.number, dim=1)
        return torch.zeros_like(fit_BUV).scatter(1, best.indices, torch.softmax(best.values, dim=1))


@frozen
class EntitiesData:
    """The shape and the task of the sparse recipe's data; it has no samples."""

    shape: tuple[int, ...] = (66, 32)
    tasks: Mapping[str, int] = {"task": 10}


def main(*names: str) -> int:
    """Prints the result of each comparison, and returns exit code 1 if a bound is missed."""
    comparisons = {comparison.__name__: comparison for comparison in (preset, modularity, encoder, sparse)}
    if len(names) != 1:
        command = [sys.executable, __file__]
        return max(subprocess.run([*command, name]).returncode for name in names or comparisons)
    keep_freed_memory()
    torch.manual_seed(0)
    return 0 if comparisons[names[0]]() else 1


def preset() -> bool:
    """`recipes/paper/digits.yaml` with batch 32: training and inference in fractions of the matmul rate, and one image."""
    recipe = load_recipe(PAPER_DIGITS_RECIPE)
    model, images = build_model(recipe), torch.rand(32, 3, 32, 32)
    seconds = time_alternately(
        {
            "step": make_training_step(model, images),
            "matrices": measure_matmul_rate(),
            "inference": make_forward(model, images),
            "one image": make_forward(model, images[:1]),
        }
    )
    rate, forward_flops = 2 * CPU_MATRIX_SIZE**3 / seconds["matrices"], count_flops(recipe).forward_flops(32)
    training, inference = 3 * forward_flops / seconds["step"] / rate, forward_flops / seconds["inference"] / rate
    print(
        f"matmul rate {rate / 1e9:.0f} GFLOP/s; a step takes {seconds['step']:.3f} s, "
        f"{3 * forward_flops / 32e9:.2f} GFLOP an image"
    )
    print(f"one image in {1e3 * seconds['one image']:.1f} ms")
    return all(
        [
            print_metric("training, fraction of the matmul rate", training, training >= 0.7, "at least 0.70"),
            print_metric("inference, fraction of the matmul rate", inference, inference >= 0.6, "at least 0.60"),
        ]
    )


def modularity() -> bool:
    """The preset compared with a transformer of equal width, number of elements and FLOPs."""
    recipe = load_recipe(PAPER_DIGITS_RECIPE)
    images, other = torch.rand(32, 3, 32, 32), build_transformer_recipe(recipe)
    seconds = time_alternately(
        {
            "interpreter": make_training_step(build_model(recipe), images),
            "transformer": make_training_step(build_model(other), images),
        }
    )
    seconds_per_flop = {
        "interpreter": seconds["interpreter"] / count_flops(recipe).per_image,
        "transformer": seconds["transformer"] / count_flops(other).per_image,
    }
    ratio = seconds_per_flop["interpreter"] / seconds_per_flop["transformer"]
    return print_metric("interpreter / transformer, time of a FLOP", ratio, ratio <= 1.05, "at most 1.05")


def encoder() -> bool:
    """The transformer recipe compared with torch's own encoder layers of the same shape."""
    layers = 12
    recipe = _load_with(
        build_transformer_recipe(load_recipe(PAPER_DIGITS_RECIPE)),
        f"model.scripts={layers}",
        "model.body={lines: 1, heads: 4, key: 48, bias: true, linear: plain}",
    )
    model, images = build_model(recipe), torch.rand(32, 3, 32, 32)
    layer = nn.TransformerEncoderLayer(192, 4, 192, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    x_BVD = torch.randn(32, 65, 192)
    seconds = time_alternately(
        {"ours": make_training_step(model, images), "torch's": make_training_step(theirs, x_BVD)}
    )
    ratio = seconds["ours"] / seconds["torch's"]
    return print_metric("transformer recipe / torch's encoder layers", ratio, ratio <= 1.05, "at most 1.05")


def sparse() -> bool:
    """Sixteen functions of which an element takes 1, 2, ... 16, compared with one function and with computing all."""
    entities = torch.randn(16, 66, 32)
    one, dense = build_sparse_model(1, "dense", 1), build_sparse_model(16, "dense", 1)
    packed = {taken: build_sparse_model(16, "packed", taken) for taken in (1, 2, 4, 8, 16)}
    work = {taken: count_forward_flops(model, entities) for taken, model in packed.items()}
    seconds = time_alternately(
        {"one": make_training_step(one, entities), "top 1": make_training_step(packed[1], entities)}
    )
    against_one = seconds["top 1"] / seconds["one"]
    steps = {f"packed {taken}": make_training_step(model, entities) for taken, model in packed.items()}
    seconds = time_alternately({"dense": make_training_step(dense, entities)} | steps)
    against_dense = seconds["packed 1"] / seconds["dense"]
    cost = {taken: seconds[f"packed {taken}"] / work[taken] for taken in packed}
    times = [seconds[f"packed {taken}"] for taken in packed]
    slope, fixed = statistics.linear_regression(list(work.values()), times)
    for taken, spent in zip(packed, times, strict=True):
        mega_flops, line = work[taken] / 16e6, fixed + slope * work[taken]
        print(
            f"{taken:2} of 16 open: {mega_flops:6.0f} MFLOP an image forward, {1e3 * spent:6.1f} ms, "
            f"{spent / line:.2f} of the line, {cost[taken] / cost[16]:.2f} of the time of a FLOP with all open"
        )
    print(f"all 16 computed: {1e3 * seconds['dense']:.1f} ms; the line starts at {1e3 * fixed:.1f} ms")
    furthest = max(abs(spent / (fixed + slope * flops) - 1) for spent, flops in zip(times, work.values(), strict=True))
    return all(
        [
            print_metric("top 1 of 16 functions / one function", against_one, against_one <= 1.3, "at most 1.30"),
            print_metric(
                "top 1 of 16 functions / all 16 computed", against_dense, against_dense <= 1 / 8, "at most 0.125"
            ),
            print_metric("furthest from the line of FLOPs", furthest, furthest <= 0.25, "at most 0.25"),
        ]
    )


def build_sparse_model(functions: int, execution: str, taken: int) -> Interpreter:
    """Builds the sparse recipe's model, with a router that takes `taken` functions for each element."""
    recipe = load_recipe_text(SPARSE_RECIPE, [f"model.functions={functions}", f"model.execution={execution}"])
    with mock.patch.object(compose, "build_data", return_value=EntitiesData()):
        model = compose.build_model(recipe)
    for script in model.scripts:
        script.router = TopFunctions(taken)
    return model


def make_training_step(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Returns a training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        outputs = model(inputs)
        outputs = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
        optimizer.step()

    return step


def make_forward(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    def forward() -> None:
        with torch.inference_mode():
            model(inputs)

    return forward


def measure_matmul_rate() -> Callable[[], object]:
    matrix, out = torch.randn(CPU_MATRIX_SIZE, CPU_MATRIX_SIZE), torch.empty(CPU_MATRIX_SIZE, CPU_MATRIX_SIZE)
    return lambda: torch.mm(matrix, matrix, out=out)


def time_alternately(sides: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Runs the sides in turn, and returns the seconds of each.

    The first side's is its median; another side's is that median times the median of its ratios to the first side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name in list(sides) * 2:
        sides[name]()
    for round_ in range(ROUNDS):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        print(f"\r{', '.join(sides)}: {round_ + 1} of {ROUNDS}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    first = next(iter(sides))
    # Ratios to the first side, round by round, so that a machine that slows down for a while slows both.
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds[first], strict=True))
        for name, values in seconds.items()
    }
    base = statistics.median(seconds[first])
    return {name: base * ratio for name, ratio in ratios.items()}


def print_metric(name: str, value: float, met: bool, bound: str) -> bool:
    print(f"{name}: {value:.3f} ({bound}){'' if met else '  MISSED'}", flush=True)
    return met


def _load_with(recipe: Recipe, *overrides: str) -> Recipe:
    from ni_framework.recipe import dump

    return load_recipe_text(dump(recipe), overrides, recipe.name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
