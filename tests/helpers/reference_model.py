"""A slow reference of the Neural Interpreter: its equations in plain loops over samples, functions, elements and heads.

Every operation acts on one vector of one element. Masked elements are absent, and a CLS element that the tasks share is
present once for each task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.recipe import Recipe, ScriptConfig

# The eps of compatibilities.
EPS = 1e-6
# The eps of a LayerNorm.
NORM_EPS = 1e-5

State = Mapping[str, Tensor]


@frozen
class ReferenceOutput:
    """The results of the equations; V includes every copy of a shared CLS element, and masked elements are NaN."""

    # [B, classes] by task.
    logits: dict[str, Tensor]
    # [script][iteration], [B, U, V] each.
    compatibility: list[list[Tensor]]
    # [script], [B, V, D] each.
    outputs: list[Tensor]


def with_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """Returns the parameters below a name."""
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(prefix + ".")}


def normalize_features(x: Tensor) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) * (x - mean)).sum() / len(x)
    return (x - mean) / (variance + NORM_EPS).sqrt()


def layer_norm(x: Tensor, state: State) -> Tensor:
    return normalize_features(x) * state["weight"] + state["bias"]


def linear(x: Tensor, state: State) -> Tensor:
    return state["weight"] @ x + state["bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def unit_length(x: Tensor) -> Tensor:
    return x / (x * x).sum().sqrt()


def mlp(x: Tensor, state: State, layers: Sequence[int]) -> Tensor:
    """Applies the linear maps at these places of a `Sequential`, with GELU between them."""
    for layer in layers:
        x = linear(x, with_prefix(state, str(layer)))
        x = gelu(x) if layer < layers[-1] else x
    return x


def coded_map(kind: str, x: Tensor, code: Tensor, state: State) -> Tensor:
    """Applies a linear map of this kind, modulated by a code."""
    weight, bias = state["weight"], state.get("bias", x.new_zeros(()))
    if kind == "modlin":
        return weight @ (x * normalize_features(state["code_weight"] @ code)) + bias
    if kind == "gated":
        return (weight @ x + bias) * (state["gate_weight"] @ code + state["gate_bias"])
    if kind == "hyper":
        generator = with_prefix(state, "generator")
        hidden = gelu(linear(layer_norm(code, with_prefix(generator, "0")), with_prefix(generator, "1")))
        change = generator["3.weight"] @ hidden * state["mixing"]
        weight = weight + change[: weight.numel()].reshape(weight.shape)
        bias = bias + (change[weight.numel() :] if "bias" in state else 0)
    return weight @ x + bias


def entities(features: Tensor, state: State) -> list[Tensor]:
    """Returns one element for each entity."""
    elements = [linear(x, with_prefix(state, "embedding")) for x in features]
    if "positions.table" not in state:
        return elements
    return [x + state["positions.table"][n] for n, x in enumerate(elements)]


def patches(image: Tensor, recipe: Recipe, state: State) -> list[Tensor]:
    """Returns one element for each patch, row by row; a patch is flattened in the order row, column, channel."""
    options = recipe.model.input.options
    channels, rows, columns = options.image
    side, elements = options.patch, []
    for i in range(rows // side):
        for j in range(columns // side):
            pixels = [
                image[c, i * side + a, j * side + b] for a in range(side) for b in range(side) for c in range(channels)
            ]
            x = linear(torch.stack(pixels), with_prefix(state, "embedding"))
            if options.positions == "absolute":
                x = x + state["positions.table"][len(elements)]
            elements.append(x)
    return elements


def axis(step: int, code: Tensor, head: int, mixing: str, state: State, name: str) -> Tensor:
    """Returns the logit of a difference of places along one axis: "row" along a row, "column" along a column."""
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

    def __init__(
        self, script: ScriptConfig, code: Tensor, state: State, places: Sequence[tuple[int, int] | None]
    ) -> None:
        options = script.body.options
        self.through_closed = script.router.use == "straight_through_kernel"
        self.heads, self.key, self.mixing = (getattr(options, name) for name in ("heads", "key", "positions"))
        self.residual, self.map = (getattr(options, name) for name in ("residual", "linear"))
        self.code, self.state, self.places = code, state, places
        self.relative = [
            [[self._relative(head, one, other) for other in places] for one in places] for head in range(self.heads)
        ]

    def _relative(self, head: int, one: tuple[int, int] | None, other: tuple[int, int] | None) -> Tensor:
        if self.mixing in ("none", "absolute") or one is None or other is None:
            return self.code.new_zeros(())
        state = with_prefix(self.state, "positions")
        along_row = axis(other[1] - one[1], self.code, head, self.mixing, state, "row")
        return along_row + axis(other[0] - one[0], self.code, head, self.mixing, state, "column")

    def mod(self, name: str, x: Tensor) -> Tensor:
        return coded_map(self.map.use, x, self.code, with_prefix(self.state, f"maps.{name}"))

    def __call__(self, x: list[Tensor], c: list[Tensor], places: list[Tensor | int]) -> list[Tensor]:
        z = [
            layer_norm(x_i + p_i, with_prefix(self.state, "attention_norm")) for x_i, p_i in zip(x, places, strict=True)
        ]
        q, k, v = ([self.mod(name, z_i) for z_i in z] for name in ("query", "key", "value"))
        y = []
        for i in range(len(x)):
            seen = torch.cat([self._attend(head, i, q, k, v, c) for head in range(self.heads)])
            o = self.mod("out", seen)
            a = {
                "modulated": x[i] + c[i] * o,
                "gating": (1 - c[i]) * x[i] + 2.5 * c[i] * o,
                "vanilla": x[i] + o,
            }[self.residual]
            f = self.mod("mlp_out", gelu(self.mod("mlp_in", layer_norm(a, with_prefix(self.state, "mlp_norm")))))
            y.append((1 - c[i]) * a + 2.5 * c[i] * c[i] * f if self.residual == "gating" else a + c[i] * f)
        return y

    def _attend(self, head: int, i: int, q: list[Tensor], k: list[Tensor], v: list[Tensor], c: list[Tensor]) -> Tensor:
        keys = slice(head * self.key, (head + 1) * self.key)
        width = len(v[0]) // self.heads
        values = slice(head * width, (head + 1) * width)
        if c[i] == 0 and not self.through_closed:
            return torch.zeros_like(v[i][values])
        logits = [(q[i][keys] @ k[j][keys] + self.relative[head][i][j]) / math.sqrt(self.key) for j in range(len(k))]
        exponentials = [torch.exp(logit) for logit in logits]
        a = [e / torch.stack(exponentials).sum() for e in exponentials]
        modulated = [c[i] * c[j] * a[j] for j in range(len(k))]
        if self.through_closed:
            # c_i cancels, so that a closed query attends like an open one; closed keys have weight 0.
            modulated = [c_j * a_j if c_j > 0 else 0 * a_j for c_j, a_j in zip(c, a, strict=True)]
        total = torch.stack(modulated).sum()
        if total == 0:
            # No key is open: uniform weights keep the result finite.
            modulated, total = [total + 1] * len(k), total + len(k)
        return torch.stack([modulated[j] / total * v[j][values] for j in range(len(k))]).sum(dim=0)


def infer_type(x: Tensor, depth: int, state: State) -> Tensor:
    return unit_length(
        mlp(layer_norm(x, with_prefix(state, "layers.0")), with_prefix(state, "layers"), range(1, 2 * depth, 2))
    )


def embedding(script: ScriptConfig, state: State) -> tuple[list[Tensor], list[Tensor]]:
    """Returns signatures of length one, and codes."""
    if script.embedding.use == "consolidated":
        layers = range(0, 2 * script.embedding.options.depth, 2)
        signatures, codes = (
            [mlp(x, with_prefix(state, f"to_{kind}"), layers) for x in state["table"]] for kind in ("signature", "code")
        )
        return [unit_length(s) for s in signatures], [normalize_features(c) for c in codes]
    return [unit_length(s) for s in state["signature"]], list(state["code"])


def quantise(t: Tensor, entries: Tensor) -> Tensor:
    """Returns the nearest entry, with the gradient of t."""
    nearest = max(range(len(entries)), key=lambda k: float((entries[k] @ t).detach()))
    return t + (entries[nearest] - t).detach()


def route(use: str, options: object, state: State, types: list[Tensor], signatures: list[Tensor]) -> list[list[Tensor]]:
    """Returns compatibilities [function][element]; for routers that draw noise, those in evaluation mode."""
    if use == "quantised":
        what, entries = options.what, state["codebook.entry"]  # pyright: ignore[reportAttributeAccessIssue]
        types = types if what == "signatures" else [quantise(t, entries) for t in types]
        signatures = signatures if what == "types" else [quantise(s, entries) for s in signatures]
    if use in ("quantised", "function_dropout"):
        inner = options.inner  # pyright: ignore[reportAttributeAccessIssue]
        c = route(inner.use, inner.options, with_prefix(state, "inner"), types, signatures)
        keep = getattr(options, "keep", 1)
        return [[keep * c_ui for c_ui in row] for row in c]
    tau, sigma = options.truncation, torch.exp(state["log_bandwidth"])  # pyright: ignore[reportAttributeAccessIssue]
    distance = [[1 - (s * t).sum() for t in types] for s in signatures]
    soft = [[torch.exp(-d / sigma) for d in row] for row in distance]
    hard = [[k if d < tau else 0 * k for k, d in zip(*rows, strict=True)] for rows in zip(soft, distance, strict=True)]
    if getattr(options, "evaluation", "mean") == "threshold":
        hard = [[k if k > 0.5 else 0 * k for k in row] for row in hard]
    if use == "unnormalised_kernel":
        return hard
    if use == "straight_through_kernel":
        pairs = zip(normalise_kernel(hard), normalise_kernel(soft), strict=True)
        return [[s + (h - s).detach() for h, s in zip(*rows, strict=True)] for rows in pairs]
    return normalise_kernel(hard)


def normalise_kernel(kernel: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[k / (EPS + torch.stack([row[i] for row in kernel]).sum()) for i, k in enumerate(row)] for row in kernel]


def pool(pooling: str, x: Tensor, c: list[Tensor], y: list[Tensor]) -> Tensor:
    """Returns an element's next state from its state, its compatibilities and the results of the functions."""
    total = torch.stack([c_u * y_u for c_u, y_u in zip(c, y, strict=True)]).sum(dim=0)
    if pooling == "delta":
        return x + torch.stack([c_u * (y_u - x) for c_u, y_u in zip(c, y, strict=True)]).sum(dim=0)
    if pooling == "gating":
        mean = torch.stack(c).sum() / len(c)
        return (1 - mean) * x + mean * total
    return total


def run_script(
    script: ScriptConfig, x: list[Tensor], places: Sequence[tuple[int, int] | None], columns: int, state: State
) -> tuple[list[Tensor], list[list[list[Tensor]]]]:
    """Returns the elements after all iterations, and compatibilities [iteration][function][element]."""
    signatures, codes = embedding(script, with_prefix(state, "embedding"))
    options, temporary = script.body.options, list(state.get("temporary", []))
    x, places = temporary + x, [None] * len(temporary) + list(places)
    table = state.get("body.positions.table", [])
    added = [0 if place is None or not len(table) else table[place[0] * columns + place[1]] for place in places]
    lines = [
        [
            LineOfCode(script, code, with_prefix(state, f"body.lines.{number}"), places)
            for number in range(options.lines)
        ]
        for code in codes
    ]
    trace = []
    for _ in range(script.iterations):
        types = [
            infer_type(x_i, script.type_inference.options.depth, with_prefix(state, "type_inference")) for x_i in x
        ]
        c = route(script.router.use, script.router.options, with_prefix(state, "router"), types, signatures)
        y = []
        for u in range(len(signatures)):
            stream = x
            for line in lines[u]:
                stream = line(stream, c[u], added)
            y.append(stream)
        x = [pool(script.pooling, x_i, [row[i] for row in c], [row[i] for row in y]) for i, x_i in enumerate(x)]
        trace.append([row[len(temporary) :] for row in c])
    return x[len(temporary) :], trace


def run_reference(
    recipe: Recipe, state: State, inputs: Tensor, tasks: Mapping[str, int], mask: Tensor | None = None
) -> ReferenceOutput:
    """Runs the full model on a batch, sample by sample."""
    head, input_spec, program = recipe.model.head.options, recipe.model.input, recipe.model.program
    if input_spec.use == "patches":
        columns = inputs.shape[-1] // input_spec.options.patch
        num_input = columns * (inputs.shape[-2] // input_spec.options.patch)
    else:
        columns, num_input = 1, inputs.shape[1]
    num_cls = len(tasks)
    size, width = num_cls + num_input, recipe.model.width
    outputs = [inputs.new_full((len(inputs), size, width), math.nan) for _ in program]
    compatibility = [
        [inputs.new_full((len(inputs), script.functions, size), math.nan) for _ in range(script.iterations)]
        for script in program
    ]
    logits: dict[str, list[Tensor]] = {task: [] for task in tasks}
    for b in range(len(inputs)):
        cls = [state["head.cls"][0 if head.shared_cls else number] for number in range(num_cls)]
        input_state = with_prefix(state, "input")
        if input_spec.use == "patches":
            input_elements = patches(inputs[b], recipe, input_state)
        else:
            input_elements = entities(inputs[b], input_state)
        present = [n for n in range(num_input) if mask is None or bool(mask[b, n])]
        x = cls + [input_elements[n] for n in present]
        places = [None] * num_cls + [(n // columns, n % columns) for n in present]
        seats = [*range(num_cls), *(num_cls + n for n in present)]
        for number, script in enumerate(program):
            x, trace = run_script(script, x, places, columns, with_prefix(state, f"scripts.{number}"))
            for seat, x_i in zip(seats, x, strict=True):
                outputs[number][b, seat] = x_i.detach()
            for iteration, c in enumerate(trace):
                for u, row in enumerate(c):
                    for seat, c_ui in zip(seats, row, strict=True):
                        compatibility[number][iteration][b, u, seat] = c_ui.detach()
        for number, task in enumerate(tasks):
            maps = with_prefix(state, f"head.maps.{0 if head.shared_head else number}")
            logits[task].append(linear(layer_norm(x[number], with_prefix(maps, "0")), with_prefix(maps, "1")))
    return ReferenceOutput({task: torch.stack(rows) for task, rows in logits.items()}, compatibility, outputs)
