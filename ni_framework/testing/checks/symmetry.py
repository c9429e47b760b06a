"""What a component's results must not depend on: the rest of the batch, the order of things, what is masked or closed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from ni_framework.contracts import Sizes
from ni_framework.errors import OptionError
from ni_framework.testing.checks.check import PARTS, check
from ni_framework.testing.failures import Excused, Failure
from ni_framework.testing.harness.case import BATCH, OUT, TASKS, Case
from ni_framework.testing.harness.compare import same, same_results
from ni_framework.testing.harness.invocation import RESULTS, Told, Trial, at, call, trial


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
            same_results(Told(found), alone, f"when sample {sample} is asked about alone")


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
    same_results(Told(expected), call(module, of.indexed("V", order)), "when the elements come in another order")


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
    follows = _following(case)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name in follows:
                tensor.copy_(tensor[order])
    same_results(Told(expected), call(module, of.indexed("U", order)), "when the functions come in another order")


def _following(case: Case) -> set[str]:
    """The parameters and buffers with a leading U: those whose first size follows the number of functions."""
    count = case.sizes.functions
    sizes = {}
    for functions in (count, count + 2):
        module = case.on_meta(attrs.evolve(case.sizes, functions=functions))
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        sizes[functions] = {name: len(tensor) if tensor.ndim else 0 for name, tensor in tensors.items()}
    return {name for name, size in sizes[count].items() if size == count and sizes[count + 2].get(name) != count}


@check(
    "type_inference",
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
    of = trial(case)
    for training in (False, True):
        module = case.built().train(training)
        match case.kind:
            case "input":
                _masked_inputs(module, of)
            case "body" | "linear":
                _closed_pairs(module, of)
            case "halting":
                _masked_price(module, of)
                _masked_elements(module, of)
            case _:
                _masked_elements(module, of)


def _masked_elements(module: Any, of: Trial) -> None:
    """Of what takes elements and is told which are there: all but heads answer of each, and only those there count."""
    name = "type" if of.kind == "router" else "x"
    present_BV = torch.arange(of.inputs[name].shape[1]).expand(BATCH, -1) % 3 != 2
    of = of.with_inputs(present=present_BV)
    other = of.inputs[name].flip(-1) * (torch.nan if of.kind == "head" else 1)  # a router's types are unit vectors
    changed = of.with_inputs(**{name: torch.where(present_BV.unsqueeze(-1), of.inputs[name], other)})
    before, after = call(module, of), call(module, changed)
    if of.kind != "head":
        before, after = _present(before, present_BV), _present(after, present_BV)
    same_results(before, after, "when masked elements change")


def _present(told: Told, present_BV: Tensor) -> Told:
    there = present_BV[0].nonzero().squeeze(-1)
    return Told({name: at(value, RESULTS[name], "V", there) for name, value in told.results.items()})


def _closed_pairs(module: Any, of: Trial) -> None:
    """For each function, the elements that it does not take."""
    c_BUV = of.inputs["compatibility"]
    before = call(module, of).results["outcome"]
    for function in range(c_BUV.shape[1]):
        closed_BV1 = (c_BUV[:, function] == 0).unsqueeze(-1)
        x_BVD = torch.where(closed_BV1, 3 * of.inputs["x"].flip(-1) + 1, of.inputs["x"])
        after = call(module, of.with_inputs(x=x_BVD)).results["outcome"]
        when = f"when elements change that function {function} does not take"
        same("its outcome BUVD", before[:, function], after[:, function], when)


def _masked_price(module: Any, of: Trial) -> None:
    left_BV = of.inputs["left"]
    present_BV = torch.arange(left_BV.shape[1]).expand(BATCH, -1) % 3 != 2
    halt_IBV = torch.stack([0.2 * left_BV, 0.3 * left_BV, 1 - 0.5 * left_BV])
    before = module.price(halt_IBV, present_BV)
    after = module.price(torch.where(present_BV, halt_IBV, halt_IBV.flip(0)), present_BV)
    for name, loss in before.items():
        same(f"its price `{name}`", loss, after[name], "when masked elements halt at other times")


def _masked_inputs(module: Any, of: Trial) -> None:
    """What reaches masked elements only may be NaN, and gives no gradient that is."""
    inputs = of.inputs["inputs"]
    with torch.no_grad():
        num_elements = module(inputs, None).shape[1]
    mask_BN = torch.arange(num_elements).expand(BATCH, -1) % 3 != 2
    smooth = _reads(module, inputs, None, mask_BN)
    other = torch.full_like(inputs, torch.nan) if smooth is not None else inputs.roll(1, 0)
    shown = smooth if smooth is not None else _changes(module, inputs, other, None, mask_BN)
    if shown.all() and not mask_BN.all():  # each number reaches some element that is there, until a mask is given
        if torch.equal(module(inputs, mask_BN)[mask_BN], module(inputs, None)[mask_BN]):
            raise Failure(
                "a mask changes nothing, although what belongs to masked elements reaches those that are there"
            )
        with_mask = _reads(module, inputs, mask_BN, mask_BN)
        shown = with_mask if with_mask is not None else _changes(module, inputs, other, mask_BN, mask_BN)
        if shown.all():
            raise Excused("every number of its inputs reaches every element, masked or not")
    torn = torch.where(shown, inputs, other)
    before, after = module(inputs, mask_BN), module(torn, mask_BN)
    pair = [Told({"elements": torch.where(mask_BN.unsqueeze(-1), x, 0)}) for x in (before, after)]
    same_results(
        pair[0], pair[1], "when inputs of masked elements are NaN" if smooth is not None else "when they change"
    )
    if not pair[1].results["elements"].requires_grad:
        return
    pair[1].results["elements"].square().sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise Failure(f"the gradient of {name} is NaN when inputs of masked elements are: mask them before the map")


def _reads(module: Any, inputs: Tensor, mask_BN: Tensor | None, there_BN: Tensor) -> Tensor | None:
    """Which numbers reach an element that is there, by gradients; None where the inputs have none, as tokens."""
    inputs = inputs.clone().requires_grad_()
    x_BND = module(inputs, mask_BN)
    if not x_BND.requires_grad:
        return None
    found = [
        torch.autograd.grad(x_BND[:, n].sum(), inputs, retain_graph=True, allow_unused=True)[0]
        for n in there_BN[0].nonzero().squeeze(-1).tolist()
    ]
    known = [gradient != 0 for gradient in found if gradient is not None]
    return torch.stack(known).any(dim=0) if known else None


def _changes(module: Any, inputs: Tensor, other: Tensor, mask_BN: Tensor | None, there_BN: Tensor) -> Tensor:
    """As `_reads`, by putting another number into each place."""
    size = inputs[0].numel()
    if size > 4096:
        raise Excused("its inputs have no gradients, and are too many to be tried one by one")
    found = []
    with torch.no_grad():
        for sample in range(BATCH):
            mask = None if mask_BN is None else mask_BN[sample].expand(size, -1)
            base, new = inputs[sample].flatten(), other[sample].flatten()
            tried = torch.where(torch.eye(size, dtype=torch.bool), new, base).view(size, *inputs.shape[1:])
            told = module(inputs[sample : sample + 1], None if mask is None else mask[:1])
            differs = (module(tried, mask) != told).any(dim=-1)  # [number, N]
            found.append(differs[:, there_BN[sample]].any(dim=-1).view(inputs.shape[1:]))
    return torch.stack(found)
