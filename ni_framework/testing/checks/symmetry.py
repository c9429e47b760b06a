"""What a component's results must not depend on: the rest of the batch, the order of things, what is masked or closed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from ni_framework.contracts import Sizes
from ni_framework.errors import OptionError
from ni_framework.testing.case import BATCH, OUT, TASKS, Case
from ni_framework.testing.check import PARTS, Failure, check
from ni_framework.testing.trial import RESULTS, Told, Trial, at, call, trial

TOLERANCE = 1e-9  # of the largest number in float64


@check(
    *PARTS,
    why="recipes choose widths and numbers of functions freely, batches end with fewer samples, and float64 is what proofs of "
    "equality are made in",
    fix="read sizes from `sizes` and from the tensors, and make new tensors like those that are given",
)
def shapes(case: Case) -> None:
    """Over a grid of sizes, results have the shapes and the types of numbers that the contract says."""
    for sizes, batch, lead in _grid(case):
        try:
            module = case.built(sizes)
        except OptionError:
            continue  # a size that it says it cannot work with
        for dtype in (torch.float64, torch.float32):
            of = trial(case, sizes, batch, lead).to(dtype)
            for name, value in call(module.to(dtype), of).results.items():
                expected = _shape(case, name, module, of, sizes)
                where = f"B {batch}, U {sizes.functions}, D {sizes.width}, C {sizes.code}, T {sizes.type}, {dtype}"
                if list(value.shape) != expected:
                    raise Failure(f"its {name} is {list(value.shape)}, not {RESULTS[name]} {expected}, with {where}")
                if value.dtype != dtype:
                    raise Failure(f"its {name} is {value.dtype} with {where}")


def _grid(case: Case) -> Iterator[tuple[Sizes, int, int]]:
    base = case.sizes
    yield base, BATCH, 1
    yield base, 1, 3
    yield attrs.evolve(base, functions=1), 2, 1
    yield attrs.evolve(base, functions=3, width=2 * base.width, code=4, type=2 * base.type), 2, 2
    yield attrs.evolve(base, code=1, type=16, grid=(1, 1)), 2, 1
    yield attrs.evolve(base, grid=None), 2, 0


def _shape(case: Case, name: str, module: Any, of: Trial, sizes: Sizes) -> list[int]:
    if name in TASKS:
        return [len(of.inputs["x"]), TASKS[name]]
    if case.kind == "input":
        return [len(of.inputs["inputs"]), module.num_elements, sizes.width]
    some = of.inputs.get("x", of.inputs.get("type"))
    known = {"U": sizes.functions, "D": sizes.width, "C": sizes.code, "T": sizes.type}
    known |= {} if some is None else {"B": len(some), "V": some.shape[1]}
    known |= {"D": OUT} if case.kind == "linear" else {}
    return [known[letter] for letter in RESULTS[name]]


@check(
    *[kind for kind in PARTS if kind != "embedding"],
    why="what a model says of a sample must not depend on which others happen to be asked about with it",
    fix="take no mean, maximum or sorting over B; elements compete within their sample only",
)
def batch(case: Case) -> None:
    """Every sample alone gives what it gives in a batch."""
    module, of = case.built(), trial(case)
    for training in (False, True):
        whole = call(module.train(training), of)
        for sample in range(BATCH):
            alone = call(module, of.indexed("B", torch.tensor([sample])))
            found = {
                name: at(value, RESULTS[name], "B", torch.tensor([sample])) for name, value in whole.results.items()
            }
            _compare(Told(found), alone, f"when sample {sample} is asked about alone")


@check(
    "type_inference",
    "router",
    "body",
    "halting",
    "linear",
    "head",
    why="elements are a set: without positions the outcome may not depend on the order in which they are listed",
    fix="let nothing depend on an element's index; where places matter, read `sizes.grid` and say so in an option",
)
def elements(case: Case) -> None:
    """Elements in another order give the same results in that order."""
    sizes = case.without_places() if case.kind not in ("linear", "head") else case.sizes
    module, of = case.built(sizes), trial(case, sizes).still()
    order = torch.arange(of.inputs["type" if case.kind == "router" else "x"].shape[1]).flip(0).roll(3)
    expected = {name: at(value, RESULTS[name], "V", order) for name, value in call(module, of).results.items()}
    _compare(Told(expected), call(module, of.indexed("V", order)), "when the elements come in another order")


@check(
    "router",
    "body",
    "linear",
    why="functions are told apart by signature and code alone: growing, pruning and merging renumber them",
    fix="keep what belongs to a function in tensors with a leading U, and let nothing else depend on its number",
)
def functions(case: Case) -> None:
    """Functions in another order, state with a leading U included, give the same results in that order."""
    module, of = case.built(), trial(case).still()
    order = torch.arange(case.sizes.functions).flip(0).roll(3)
    expected = {name: at(value, RESULTS[name], "U", order) for name, value in call(module, of).results.items()}
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.ndim and len(tensor) == len(order):
                tensor.copy_(tensor[order])
    _compare(Told(expected), call(module, of.indexed("U", order)), "when the functions come in another order")


@check(
    "router",
    "body",
    "linear",
    "halting",
    "input",
    "head",
    why="padding must not be seen, and a function must not learn of elements that it does not take: a pair with compatibility 0 "
    "influences nothing",
    fix="mask before you sum, sort or normalise: torch.where(present, x, 0); inside a body mix elements with pairs.attend, or "
    "with pairs.place, which leaves closed pairs out",
)
def masked(case: Case) -> None:
    """What is masked or closed may hold anything."""
    module, of = case.built(), trial(case)
    match case.kind:
        case "input":
            _masked_inputs(module, of)
        case "body" | "linear":
            _closed_pairs(module, of)
        case "halting":
            _masked_price(module, of)
        case _:
            _masked_elements(module, of)


def _masked_elements(module: Any, of: Trial) -> None:
    """Of a router or a head."""
    name = "type" if of.kind == "router" else "x"
    present_BV = torch.arange(of.inputs[name].shape[1]).expand(BATCH, -1) % 3 != 2
    of = of.with_inputs(present=present_BV)
    other = of.inputs[name].flip(-1) * (1 if of.kind == "router" else torch.nan)  # a router's types are unit vectors
    changed = of.with_inputs(**{name: torch.where(present_BV.unsqueeze(-1), of.inputs[name], other)})
    before, after = call(module, of), call(module, changed)
    if of.kind == "router":
        c_BUV, changed_BUV = (torch.where(present_BV[:, None], x.results["compatibility"], 0) for x in (before, after))
        before, after = Told({"compatibility": c_BUV}), Told({"compatibility": changed_BUV})
    _compare(before, after, "when masked elements change")


def _closed_pairs(module: Any, of: Trial) -> None:
    """For each function, the elements that it does not take."""
    c_BUV = of.inputs["compatibility"]
    before = call(module, of).results["outcome"]
    for function in range(c_BUV.shape[1]):
        closed_BV1 = (c_BUV[:, function] == 0).unsqueeze(-1)
        x_BVD = torch.where(closed_BV1, 3 * of.inputs["x"].flip(-1) + 1, of.inputs["x"])
        after = call(module, of.with_inputs(x=x_BVD)).results["outcome"]
        _compare(
            Told({"outcome": before[:, function]}),
            Told({"outcome": after[:, function]}),
            f"when elements change that function {function} does not take",
        )


def _masked_price(module: Any, of: Trial) -> None:
    left_BV = of.inputs["left"]
    present_BV = torch.arange(left_BV.shape[1]).expand(BATCH, -1) % 3 != 2
    halt_IBV = torch.stack([0.2 * left_BV, 0.3 * left_BV, 1 - 0.5 * left_BV])
    before = module.price(halt_IBV, present_BV)
    after = module.price(torch.where(present_BV, halt_IBV, halt_IBV.flip(0)), present_BV)
    for name, loss in before.items():
        if not torch.allclose(loss, after[name], rtol=1e-9):
            raise Failure(f"its price `{name}` changes when masked elements halt at other times")


def _masked_inputs(module: Any, of: Trial) -> None:
    """What reaches masked elements only may be NaN, and gives no gradient that is."""
    inputs = of.inputs["inputs"].clone().requires_grad_()
    x_BND = module(inputs, None)
    mask_BN = torch.arange(x_BND.shape[1]).expand(BATCH, -1) % 3 != 2
    read = [torch.autograd.grad(x_BND[:, n].sum(), inputs, retain_graph=True)[0] != 0 for n in range(x_BND.shape[1])]
    shown = torch.stack([of & mask_BN[0, n] for n, of in enumerate(read)]).any(dim=0)
    torn = torch.where(shown, of.inputs["inputs"], torch.nan)
    before, after = module(of.inputs["inputs"], mask_BN), module(torn, mask_BN)
    pair = [Told({"elements": torch.where(mask_BN.unsqueeze(-1), x, 0)}) for x in (before, after)]
    _compare(pair[0], pair[1], "when inputs of masked elements are NaN")
    pair[1].results["elements"].square().sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise Failure(f"the gradient of {name} is NaN when inputs of masked elements are: mask them before the map")


def _compare(before: Told, after: Told, when: str) -> None:
    for name, value in before.results.items():
        other = after.results[name]
        if other.shape != value.shape:
            raise Failure(f"its {name} is {list(other.shape)}, not {list(value.shape)}, {when}")
        if not torch.allclose(value, other, rtol=0, atol=_scale(value) * TOLERANCE):
            raise Failure(
                f"its {name} {RESULTS[name]} changes by up to {(value - other).abs().max().item():.2g} {when}"
            )


def _scale(value: Tensor) -> float:
    return float(value.detach().abs().max().clamp_min(1e-3)) if value.numel() else 1.0
