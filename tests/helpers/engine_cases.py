"""What is trained in the tests beside it, and how: documents that go to other processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from ni_framework.contracts import Context
from ni_framework.engines.optim import MakeOptimizer, adamw
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import Optimizer
from ni_framework.registry.file_plugins import use_file
from tests.helpers.small_recipe import small_recipe

SPREAD = "engine.deepspeed.zero_optimization={stage3_param_persistence_threshold: 0, reduce_bucket_size: 500}"
SPREAD_2 = "engine.deepspeed.zero_optimization={reduce_bucket_size: 500}"
COMMON = ("train.batch=12", "train.steps=100", "train.schedule={use: constant, warmup: 0}")
BATCH = 12
FROZEN = ("scripts.0.embedding", "scripts.0.router", "head.maps.0.1")
CONSTANT = ("input", "head.cls")  # nothing that the first script begins with has a gradient


@frozen
class Case:
    """One training, which several engines carry out."""

    overrides: tuple[str, ...] = field(default=(), converter=tuple)
    stages: tuple[int, ...] = field(default=(0, 1, 2, 3), converter=tuple)
    optimizer: str = "sgd"
    frozen: tuple[str, ...] = field(default=(), converter=tuple)  # the beginnings of names
    routing: str = ""
    seed: int = 0
    steps: int = 10
    tied: bool = False  # whether all scripts infer types by the same module
    evaluate: int = 0  # iterations of an evaluation after each step
    halts: bool = False  # whether the first process's samples halt first, the others' later

    def recipe(self, folder: Path, *overrides: str) -> Recipe:
        """The small recipe under this case's overrides and these; the odd components are known."""
        use_file(str(Path(__file__).with_name("pathological_components.py")))
        rate = "train.optimizer.lr=0.05" if self.optimizer == "sgd" else "train.optimizer.lr=3e-3"
        return small_recipe(folder, *COMMON, rate, *self.overrides, *overrides)

    def zero(self, folder: Path, stage: int, *overrides: str) -> Recipe:
        """The same for DeepSpeed: everything that a stage divides is divided, and sent in many small messages."""
        spread = [SPREAD] if stage == 3 else [SPREAD_2] if stage else []
        return self.recipe(folder, "engine.use=zero", f"engine.stage={stage}", *spread, *overrides)

    @property
    def make_optimizer(self) -> MakeOptimizer:
        return sgd if self.optimizer == "sgd" else adamw

    def prepare(self, recipe: Recipe, size: int) -> Callable[[Interpreter], None]:
        """What is done to a new model before it is trained by `size` processes."""

        def change(model: Interpreter) -> None:
            if self.tied:
                first, *others = model.scripts
                for script in others:
                    script.type_inference = first.type_inference
            for name, parameter in model.named_parameters():
                if name.startswith(self.frozen):
                    parameter.requires_grad_(False)
            if self.routing:
                for script, of in zip(model.scripts, recipe.model.program, strict=True):
                    script.router = Given(script.router, opened(self, of.functions, size))
            if self.halts:
                last_S = torch.arange(1, size + 1).repeat_interleave(BATCH // size).repeat(self.steps)
                for script in model.scripts:
                    script.halting = Halts(script.halting, last_S)

        return change


def sgd(model: nn.Module, optimizer: Optimizer) -> torch.optim.Optimizer:
    """SGD with momentum: unlike Adam's, its steps grow with the gradient."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(parameters, lr=optimizer.lr, momentum=0.9)


class Given(nn.Module):
    """A router that opens what it is told to: functions by the place of a sample in the run, which is its key."""

    def __init__(self, inner: nn.Module, opened_SU: Tensor) -> None:
        super().__init__()
        self.inner, self.opened_SU = inner, opened_SU
        self.gradient_through_closed = False

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        opened_BU = self.opened_SU[context.noise.key_B]  # pyright: ignore[reportAttributeAccessIssue]  KeyedNoise
        return torch.where(opened_BU.unsqueeze(-1), self.inner(type_BVT, signature_UT, context), 0)


class Halts(nn.Module):
    """Halting that ends at the latest after a sample's own number of iterations."""

    def __init__(self, inner: Any, last_S: Tensor) -> None:
        super().__init__()
        self.inner, self.last_S = inner, last_S

    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor:
        last_B = self.last_S[context.noise.key_B]  # pyright: ignore[reportAttributeAccessIssue]
        return torch.where(context.iteration + 1 < last_B[:, None], self.inner(x_BVD, left_BV, context), left_BV)

    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Any:
        return self.inner.price(halt_IBV, present_BV)


def opened(case: Case, functions: int, size: int) -> Tensor:
    """Which functions take each sample of a run; [S, U]."""
    opened_TRU = torch.zeros(case.steps, size, functions, dtype=torch.bool)  # by step, process and function
    step_T = torch.arange(case.steps)
    if case.routing == "apart":
        for rank in range(size):
            opened_TRU[step_T, rank, (step_T + rank) % functions] = True
    elif case.routing == "all but one process":
        opened_TRU[:] = True
        opened_TRU[step_T, step_T % size] = False
    elif case.routing == "all to one":
        opened_TRU[:, :, 0] = True
    elif case.routing == "drawn":
        generator = torch.Generator().manual_seed(case.seed)
        opened_TRU = torch.rand(opened_TRU.shape, generator=generator) < 0.4
    else:
        assert case.routing == "nowhere"
    return opened_TRU.repeat_interleave(BATCH // size, dim=1).flatten(0, 1)
