"""Cases of training that all engines have to carry out alike; they are sent to other processes as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from ni_framework.contracts import Context
from ni_framework.engines.optim import OptimizerFactory, build_adamw
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from ni_framework.recipe.schema import OptimizerConfig
from ni_framework.registry.file_plugins import add_plugin_file, plugin_files
from ni_framework.registry.resolve import reset_registry
from tests.helpers.small_recipe import load_small_recipe

PATHOLOGICAL_COMPONENTS = Path(__file__).with_name("pathological_components.py")
SHARD_STAGE_3 = "engine.deepspeed.zero_optimization={stage3_param_persistence_threshold: 0, reduce_bucket_size: 500}"
SHARD_STAGE_2 = "engine.deepspeed.zero_optimization={reduce_bucket_size: 500}"
CASE_OVERRIDES = ("train.batch=12", "train.steps=100", "train.schedule={use: constant, warmup: 0}")
CASE_BATCH_SIZE = 12
FROZEN_PREFIXES = ("scripts.0.embedding", "scripts.0.router", "head.maps.0.1")
# With these frozen, no input of the first script requires a gradient.
NO_GRAD_PREFIXES = ("input", "head.cls")


@frozen
class EngineCase:
    """One training, which several engines carry out.

    Attributes:
        overrides: Changes of the small recipe.
        stages: The ZeRO stages to compare.
        optimizer: "sgd" or "adamw".
        frozen: Prefixes of the names of frozen parameters.
        routing: Which functions are open for which rank; see `open_functions`. Empty: the recipe's router decides.
        seed: The seed of the routing "drawn".
        steps: The number of steps.
        shares_type_inference: Whether all scripts use the same module for type inference.
        eval_iterations: The iterations of an evaluation after each step; 0 for none.
        halts: Whether the samples of rank 0 halt first, those of the other ranks later.
    """

    overrides: tuple[str, ...] = field(default=(), converter=tuple)
    stages: tuple[int, ...] = field(default=(0, 1, 2, 3), converter=tuple)
    optimizer: str = "sgd"
    frozen: tuple[str, ...] = field(default=(), converter=tuple)
    routing: str = ""
    seed: int = 0
    steps: int = 10
    shares_type_inference: bool = False
    eval_iterations: int = 0
    halts: bool = False

    def recipe(self, folder: Path, *overrides: str) -> Recipe:
        """Returns the small recipe with the overrides of the case and these, and registers the pathological components."""
        if PATHOLOGICAL_COMPONENTS not in plugin_files():
            add_plugin_file(str(PATHOLOGICAL_COMPONENTS))
            # The catalog may have been read before, by another test in this process.
            reset_registry()
        rate = "train.optimizer.lr=0.05" if self.optimizer == "sgd" else "train.optimizer.lr=3e-3"
        return load_small_recipe(folder, *CASE_OVERRIDES, rate, *self.overrides, *overrides)

    def zero_recipe(self, folder: Path, stage: int, *overrides: str) -> Recipe:
        """Returns the recipe for DeepSpeed, with all that a stage shards sharded, and sent in many small messages."""
        sharding = [SHARD_STAGE_3] if stage == 3 else [SHARD_STAGE_2] if stage else []
        return self.recipe(folder, "engine.use=zero", f"engine.stage={stage}", *sharding, *overrides)

    @property
    def make_optimizer(self) -> OptimizerFactory:
        return make_sgd if self.optimizer == "sgd" else build_adamw

    def prepare(self, recipe: Recipe, world_size: int) -> Callable[[Interpreter], None]:
        """Returns the change of a new model before it is trained by `world_size` ranks."""

        def change(model: Interpreter) -> None:
            if self.shares_type_inference:
                first, *others = model.scripts
                for script in others:
                    script.type_inference = first.type_inference
            for name, parameter in model.named_parameters():
                if name.startswith(self.frozen):
                    parameter.requires_grad_(False)
            if self.routing:
                for script, script_config in zip(model.scripts, recipe.model.program, strict=True):
                    opened_SU = open_functions(self, script_config.functions, world_size)
                    script.router = FixedRouting(script.router, opened_SU)
            if self.halts:
                samples_per_rank = CASE_BATCH_SIZE // world_size
                last_S = torch.arange(1, world_size + 1).repeat_interleave(samples_per_rank).repeat(self.steps)
                for script in model.scripts:
                    script.halting = HaltAtLatest(script.halting, last_S)

        return change


def make_sgd(model: nn.Module, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns SGD with momentum: unlike Adam's, its steps are proportional to the gradient, which shows a wrong scale."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(parameters, lr=optimizer.lr, momentum=0.9)


class FixedRouting(nn.Module):
    """A router that opens the given functions of each sample, which is identified by its key, its position in the run."""

    def __init__(self, inner: nn.Module, opened_SU: Tensor) -> None:
        super().__init__()
        self.inner, self.opened_SU = inner, opened_SU
        self.straight_through = False

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        opened_BU = self.opened_SU[context.noise.key_B]  # pyright: ignore[reportAttributeAccessIssue]  KeyedNoise
        return torch.where(opened_BU.unsqueeze(-1), self.inner(type_BVT, signature_UT, context), 0)


class HaltAtLatest(nn.Module):
    """Halting that ends no later than after the sample's own number of iterations."""

    def __init__(self, inner: Any, last_S: Tensor) -> None:
        super().__init__()
        self.inner, self.last_S = inner, last_S

    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        last_B = self.last_S[context.noise.key_B]  # pyright: ignore[reportAttributeAccessIssue]
        return torch.where(
            context.iteration + 1 < last_B[:, None], self.inner(x_BVD, remaining_BV, context), remaining_BV
        )

    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Any:
        return self.inner.cost(halt_IBV, present_BV)


def open_functions(case: EngineCase, functions: int, world_size: int) -> Tensor:
    """Returns which functions are open for each sample of a run; [S, U].

    Args:
        case: The case, with the kind of routing.
        functions: The number of functions.
        world_size: The number of ranks.
    """
    # By step, rank and function.
    opened_TRU = torch.zeros(case.steps, world_size, functions, dtype=torch.bool)
    step_T = torch.arange(case.steps)
    if case.routing == "apart":
        for rank in range(world_size):
            opened_TRU[step_T, rank, (step_T + rank) % functions] = True
    elif case.routing == "all but one process":
        opened_TRU[:] = True
        opened_TRU[step_T, step_T % world_size] = False
    elif case.routing == "all to one":
        opened_TRU[:, :, 0] = True
    elif case.routing == "drawn":
        generator = torch.Generator().manual_seed(case.seed)
        opened_TRU = torch.rand(opened_TRU.shape, generator=generator) < 0.4
    else:
        assert case.routing == "nowhere"
    return opened_TRU.repeat_interleave(CASE_BATCH_SIZE // world_size, dim=1).flatten(0, 1)
