"""A call of a component with random inputs whose axes are known by letters, so that one check serves many kinds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from ni_framework.contracts import Answer, Context, Sizes
from ni_framework.model.noise import KeyedNoise
from ni_framework.nn.kernel import unit
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs
from ni_framework.nn.random import keys
from ni_framework.testing.harness.case import BATCH, TASKS, Case

AXES: Mapping[str, str] = {
    "x": "BVD",
    "type": "BVT",
    "signature": "UT",
    "code": "UC",
    "compatibility": "BUV",
    "present": "BV",
    "left": "BV",
    "inputs": "B",  # and the shape of one input
    "answer": "B",  # [B, 1, D], how a head's CLS elements have changed
    "mask": "BN",
    "key": "B",
}
NEEDS: Mapping[str, tuple[str, ...]] = {
    "embedding": (),
    "type_inference": ("x", "key"),
    "router": ("type", "signature", "key"),
    "body": ("x", "code", "compatibility"),
    "halting": ("x", "left", "key"),
    "linear": ("x", "code", "compatibility"),
    "input": ("inputs",),
    "head": ("x", "answer"),
}
RESULTS: Mapping[str, str] = {
    "signature": "UT",
    "code": "UC",
    "type": "BVT",
    "compatibility": "BUV",
    "outcome": "BUVD",  # of a body or a linear map, its rows at their places
    "halt": "BV",
    "elements": "BND",
} | dict.fromkeys(TASKS, "B")


@frozen
class Trial:
    """The inputs of one call by name (`AXES`), and how it is made."""

    kind: str
    inputs: Mapping[str, Tensor]
    layout: Any = DensePairs
    noise: Any = None  # None: by the key

    def with_inputs(self, **inputs: Tensor | None) -> Trial:
        """The trial with some inputs replaced; None leaves one out."""
        merged = {name: value for name, value in {**self.inputs, **inputs}.items() if value is not None}
        return evolve(self, inputs=merged)

    def indexed(self, letter: str, index: Tensor) -> Trial:
        """The trial with other indices along the axis of a letter, wherever it stands."""
        return evolve(self, inputs={name: at(value, AXES[name], letter, index) for name, value in self.inputs.items()})

    def with_gradients(self) -> Trial:
        """The trial with inputs that take gradients."""
        return evolve(
            self,
            inputs={
                name: value.detach().requires_grad_(value.is_floating_point()) for name, value in self.inputs.items()
            },
        )

    def to(self, dtype: torch.dtype) -> Trial:
        """The trial with inputs of another type."""
        return evolve(
            self,
            inputs={
                name: value.to(dtype) if value.is_floating_point() else value for name, value in self.inputs.items()
            },
        )

    def still(self) -> Trial:
        """The trial with noise that is the same everywhere."""
        return evolve(self, noise=Still(len(self.inputs["key"]))) if "key" in self.inputs else self

    def context(self, given: Mapping[str, Tensor]) -> Context:
        """Where in a forward the call stands."""
        return Context(0, given.get("present"), self.noise or KeyedNoise(given["key"], 0, 0))


class Told(NamedTuple):
    """What a call returned: tensors by name (`RESULTS`), and what was told beside them."""

    results: Mapping[str, Tensor]
    losses: Mapping[str, Tensor] = {}
    statistics: Mapping[str, Tensor] = {}


class Still:
    """`contracts.Noise` that is the same everywhere, so that permuting what it meets permutes nothing of it."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def uniform(self, name: str, *shape: int, once: bool = False) -> Tensor:
        return torch.full((self.num_samples, *shape), 0.37)


def trial(case: Case, sizes: Sizes | None = None, batch: int = BATCH, lead: int = 1, seed: int = 0) -> Trial:
    """A trial with random inputs in float64; `lead` elements stand before those that lie on the grid."""
    sizes = sizes or case.sizes
    grid = sizes.grid or (3, 2)
    num_elements = grid[0] * grid[1] + (0 if case.kind == "head" else lead)  # a head has its own CLS elements
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    opened = torch.rand(batch, sizes.functions, num_elements, generator=generator, dtype=torch.float64)
    shape = case.made().shape if case.kind == "input" else ()
    known = {
        "x": randn(batch, num_elements, sizes.width),
        "type": unit(randn(batch, num_elements, sizes.type)),
        "signature": unit(randn(sizes.functions, sizes.type)),
        "code": randn(sizes.functions, sizes.code),
        "compatibility": torch.where(opened < 0.3, 0, opened / sizes.functions),  # a third is closed
        "left": torch.rand(batch, num_elements, generator=generator, dtype=torch.float64),
        "inputs": randn(batch, *shape),
        "key": keys(seed, torch.arange(batch)),
        "answer": randn(batch, 1, sizes.width),
    }
    return Trial(case.kind, {name: known[name] for name in NEEDS[case.kind]})


def call(module: Any, trial: Trial) -> Told:
    """Calls a component as the framework does."""
    return call_with(module, trial, trial.inputs)


def call_with(module: Any, trial: Trial, given: Mapping[str, Tensor]) -> Told:
    """As `call`, with the inputs beside the trial: a compiler that follows tensors only sees them there."""
    match trial.kind:
        case "embedding":
            signature_UT, code_UC = module()
            return Told({"signature": signature_UT, "code": code_UC})
        case "type_inference":
            return _told("type", module(given["x"], trial.context(given)))
        case "router":
            return _told("compatibility", module(given["type"], given["signature"], trial.context(given)))
        case "halting":
            return _told("halt", module(given["x"], given["left"], trial.context(given)))
        case "body":
            pairs = trial.layout(given["compatibility"])
            prepared = module.prepare(given["code"], given["x"].shape[1])
            return _placed(pairs, module(given["x"], prepared, pairs))
        case "linear":
            pairs = trial.layout(given["compatibility"])
            return _placed(pairs, module(pairs.share(given["x"]), module.prepare(given["code"]), pairs))
        case "input":
            return _told("elements", module(given["inputs"], given.get("mask")))
        case _:
            return Told(_answers(module, given))


def _answers(head: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a head makes of its CLS elements, changed by `answer`, and of the input's."""
    cls_LD, _ = head.start(tuple(TASKS))
    x_BVD = torch.cat([cls_LD + given["answer"], given["x"]], dim=1)
    present_BV = given.get("present")
    if present_BV is not None:
        present_BV = torch.cat([present_BV.new_ones(len(x_BVD), len(cls_LD)), present_BV], dim=1)
    return head(x_BVD, present_BV, tuple(TASKS))


def _told(name: str, value: Any) -> Told:
    answer = Answer.of(value)
    return Told({name: answer.result}, answer.losses, answer.statistics)


def _placed(pairs: DensePairs | PackedPairs, value: Any) -> Told:
    answer = Answer.of(value)
    return Told({"outcome": pairs.place(answer.result)}, answer.losses, answer.statistics)


def at(value: Tensor, axes: str, letter: str, index: Tensor) -> Tensor:
    """A tensor with other indices along the axis of a letter; as it is if it has none."""
    return value.index_select(axes.index(letter), index) if letter in axes else value


def weighted(told: Told) -> Tensor:
    """A scalar in which every number of a result counts differently."""
    return torch.stack(
        [
            (value * torch.linspace(0.3, 2.7, value.numel()).cos().view(value.shape).to(value)).sum()
            for value in told.results.values()
        ]
    ).sum()


def gradients(module: nn.Module, trial: Trial, total: Tensor) -> dict[str, Tensor | None]:
    """Gradients of a scalar by parameter ("weight") and input ("input code")."""
    wanted = {name: of for name, of in module.named_parameters() if of.requires_grad}
    wanted |= {f"input {name}": of for name, of in trial.inputs.items() if of.requires_grad}
    if not wanted or not total.requires_grad:
        return dict.fromkeys(wanted)
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))


def invoke(case: Case) -> None:
    """Builds the component and, if it is a module, calls it once at small sizes; raises what it raises."""
    if case.kind == "data":
        case.made()
    else:
        call(case.built(), trial(case))


@lru_cache(maxsize=64)
def can_be_called(case: Case) -> bool:
    """Whether `invoke` succeeds; the check `runs` reports what is wrong otherwise."""
    try:
        invoke(case)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a stranger's code may even exit
        return False
    return True
