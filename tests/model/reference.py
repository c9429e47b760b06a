"""The equations of a Neural Interpreter in plain loops over samples, functions, elements and heads: slow, to be compared with.

Every operation here acts on one vector of one element. Masked elements are left out, and a CLS element that the tasks
share is there once for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.recipe import Recipe, Script

EPS = 1e-6  # of the compatibilities
NORM_EPS = 1e-5  # of a LayerNorm

State = Mapping[str, Tensor]


@frozen
class Answer:
    """What the equations give; the V of a shared CLS counts every copy of it, and masked elements hold NaN."""

    logits: dict[str, Tensor]  # [B, classes]
    compatibility: list[list[Tensor]]  # [script][iteration], [B, U, V]
    outputs: list[Tensor]  # [script], [B, V, D]


def part(state: State, prefix: str) -> dict[str, Tensor]:
    """The parameters below a name."""
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(prefix + ".")}


def normed(x: Tensor) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) * (x - mean)).sum() / len(x)
    return (x - mean) / (variance + NORM_EPS).sqrt()


def layer_norm(x: Tensor, state: State) -> Tensor:
    return normed(x) * state["weight"] + state["bias"]


def linear(x: Tensor, state: State) -> Tensor:
    return state["weight"] @ x + state["bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def unit(x: Tensor) -> Tensor:
    return x / (x * x).sum().sqrt()


def modlin(x: Tensor, code: Tensor, state: State) -> Tensor:
    y = state["weight"] @ (x * normed(state["code_weight"] @ code))
    return y + state["bias"] if "bias" in state else y


def patches(image: Tensor, recipe: Recipe, state: State) -> list[Tensor]:
    """One element for each patch, row by row; a patch is flattened (row, column, channel)."""
    options = recipe.model.input.options
    channels, rows, columns = options.image
    side, elements = options.patch, []
    for i in range(rows // side):
        for j in range(columns // side):
            pixels = [
                image[c, i * side + a, j * side + b] for a in range(side) for b in range(side) for c in range(channels)
            ]
            x = linear(torch.stack(pixels), part(state, "embedding"))
            if options.positions == "absolute":
                x = x + state["positions.table"][len(elements)]
            elements.append(x)
    return elements


def axis(step: int, code: Tensor, head: int, mixing: str, state: State, name: str) -> Tensor:
    """What a difference of places along one axis adds; `name` is "row" along a row and "column" along a column."""
    table = state[f"table_{name}"]
    e, p = table[step + (len(table) - 1) // 2], state[f"head_{name}"][head]
    f = None if mixing == "shared" else state[f"code_{name}"] @ code
    if f is None:
        return (e * p).sum()
    if mixing == "dot":
        return (e * p * f).sum()
    return ((e + f) * p).sum() if mixing == "seq_sum" else (e * p).sum() + f[head]


class LineOfCode:
    """One line of code of one function."""

    def __init__(self, options: object, code: Tensor, state: State, places: Sequence[tuple[int, int] | None]) -> None:
        self.heads, self.key, self.mixing = (getattr(options, name) for name in ("heads", "key", "positions"))
        self.code, self.state, self.places = code, state, places
        self.relative = [
            [[self._relative(head, one, other) for other in places] for one in places] for head in range(self.heads)
        ]

    def _relative(self, head: int, one: tuple[int, int] | None, other: tuple[int, int] | None) -> Tensor:
        if self.mixing == "none" or one is None or other is None:
            return self.code.new_zeros(())
        state = part(self.state, "positions")
        along_row = axis(other[1] - one[1], self.code, head, self.mixing, state, "row")
        return along_row + axis(other[0] - one[0], self.code, head, self.mixing, state, "column")

    def mod(self, name: str, x: Tensor) -> Tensor:
        return modlin(x, self.code, part(self.state, f"maps.{name}"))

    def __call__(self, x: list[Tensor], c: list[Tensor]) -> list[Tensor]:
        z = [layer_norm(x_i, part(self.state, "attention_norm")) for x_i in x]
        q, k, v = ([self.mod(name, z_i) for z_i in z] for name in ("query", "key", "value"))
        y = []
        for i in range(len(x)):
            seen = torch.cat([self._attend(head, i, q, k, v, c) for head in range(self.heads)])
            a = x[i] + c[i] * self.mod("out", seen)
            hidden = gelu(self.mod("mlp_in", layer_norm(a, part(self.state, "mlp_norm"))))
            y.append(a + c[i] * self.mod("mlp_out", hidden))
        return y

    def _attend(self, head: int, i: int, q: list[Tensor], k: list[Tensor], v: list[Tensor], c: list[Tensor]) -> Tensor:
        keys = slice(head * self.key, (head + 1) * self.key)
        width = len(v[0]) // self.heads
        values = slice(head * width, (head + 1) * width)
        if c[i] == 0:
            return torch.zeros_like(v[i][values])
        logits = [(q[i][keys] @ k[j][keys] + self.relative[head][i][j]) / math.sqrt(self.key) for j in range(len(k))]
        exponentials = [torch.exp(logit) for logit in logits]
        a = [e / torch.stack(exponentials).sum() for e in exponentials]
        modulated = [c[i] * c[j] * a[j] for j in range(len(k))]
        total = torch.stack(modulated).sum()
        return torch.stack([modulated[j] / total * v[j][values] for j in range(len(k))]).sum(dim=0)


def infer_type(x: Tensor, depth: int, state: State) -> Tensor:
    x = layer_norm(x, part(state, "layers.0"))
    for layer in range(depth):
        x = linear(x, part(state, f"layers.{1 + 2 * layer}"))
        x = gelu(x) if layer < depth - 1 else x
    return unit(x)


def run_script(
    script: Script, x: list[Tensor], places: Sequence[tuple[int, int] | None], state: State
) -> tuple[list[Tensor], list[list[list[Tensor]]]]:
    """The elements after all iterations, and compatibilities [iteration][function][element]."""
    signatures, codes = [unit(s) for s in state["signature"]], list(state["code"])
    options = script.body.options
    lines = [
        [LineOfCode(options, code, part(state, f"body.lines.{number}"), places) for number in range(options.lines)]
        for code in codes
    ]
    sigma, trace = torch.exp(state["router.log_bandwidth"]), []
    for _ in range(script.iterations):
        types = [infer_type(x_i, script.type_inference.options.depth, part(state, "type_inference")) for x_i in x]
        kernel = []
        for s in signatures:
            distances = [1 - (s * t).sum() for t in types]
            kernel.append([torch.exp(-d / sigma) if d < script.router.options.truncation else d * 0 for d in distances])
        c = [[k / (EPS + torch.stack([row[i] for row in kernel]).sum()) for i, k in enumerate(row)] for row in kernel]
        y = []
        for u in range(len(signatures)):
            stream = x
            for line in lines[u]:
                stream = line(stream, c[u])
            y.append(stream)
        functions = range(len(signatures))
        if script.pooling == "delta":
            x = [
                x_i + torch.stack([c[u][i] * (y[u][i] - x_i) for u in functions]).sum(dim=0) for i, x_i in enumerate(x)
            ]
        else:
            x = [torch.stack([c[u][i] * y[u][i] for u in functions]).sum(dim=0) for i in range(len(x))]
        trace.append(c)
    return x, trace


def run(recipe: Recipe, state: State, inputs: Tensor, tasks: Mapping[str, int], mask: Tensor | None = None) -> Answer:
    """The whole model on a batch, sample by sample."""
    head, side = recipe.model.head.options, recipe.model.input.options.patch
    columns = inputs.shape[-1] // side
    program = recipe.model.program
    num_cls, num_patches = len(tasks), columns * (inputs.shape[-2] // side)
    size, width = num_cls + num_patches, recipe.model.width
    outputs = [inputs.new_full((len(inputs), size, width), math.nan) for _ in program]
    compatibility = [
        [inputs.new_full((len(inputs), script.functions, size), math.nan) for _ in range(script.iterations)]
        for script in program
    ]
    logits: dict[str, list[Tensor]] = {task: [] for task in tasks}
    for b in range(len(inputs)):
        cls = [state["head.cls"][0 if head.shared_cls else number] for number in range(num_cls)]
        images = patches(inputs[b], recipe, part(state, "input"))
        present = [n for n in range(num_patches) if mask is None or bool(mask[b, n])]
        x = cls + [images[n] for n in present]
        places = [None] * num_cls + [(n // columns, n % columns) for n in present]
        seats = [*range(num_cls), *(num_cls + n for n in present)]
        for number, script in enumerate(program):
            x, trace = run_script(script, x, places, part(state, f"scripts.{number}"))
            for seat, x_i in zip(seats, x, strict=True):
                outputs[number][b, seat] = x_i.detach()
            for iteration, c in enumerate(trace):
                for u, row in enumerate(c):
                    for seat, c_ui in zip(seats, row, strict=True):
                        compatibility[number][iteration][b, u, seat] = c_ui.detach()
        for number, task in enumerate(tasks):
            maps = part(state, f"head.maps.{0 if head.shared_head else number}")
            logits[task].append(linear(layer_norm(x[number], part(maps, "0")), part(maps, "1")))
    return Answer({task: torch.stack(rows) for task, rows in logits.items()}, compatibility, outputs)
