"""The engine that carries training out with DeepSpeed: any stage of ZeRO, in any number of processes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from ni_framework.checkpoint.load import check_fit
from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.shards import State
from ni_framework.contracts import Batch
from ni_framework.distributed.communicator import Team
from ni_framework.engines.base import COUNT, Engine, clipped, parts_of, trainable
from ni_framework.engines.deepspeed.comm_monitor import watch
from ni_framework.engines.deepspeed.config import check_device, settings_of
from ni_framework.engines.deepspeed.grad_order import InOrder
from ni_framework.engines.deepspeed.nvme import check_async_io, folder_for
from ni_framework.engines.deepspeed.sharded_build import (
    BuildModel,
    check_apart,
    device_of,
    differentiable,
    forget,
    import_deepspeed,
    spread,
    without_empty,
)
from ni_framework.engines.deepspeed.sharded_parameters import Parameters
from ni_framework.engines.deepspeed.zero_grads import tied
from ni_framework.engines.freezing import hold
from ni_framework.engines.optim import MakeOptimizer, adamw
from ni_framework.errors import RunError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Forward, Interpreter
from ni_framework.model.script import Script
from ni_framework.recipe import Recipe

LEFT_OUT = float("inf")  # a norm with which DeepSpeed takes no step


class ZeroEngine(Engine):
    """DeepSpeed's engine behind the steps that all engines take; its weights are fp32 in every precision, as the local one's.

    At stage 3 a script is gathered as a whole, once for all of its iterations. Ours, and not DeepSpeed's, are: what a loss is,
    which steps are left out, and checkpoints. Source: Rajbhandari et al., "ZeRO" (2020).
    """

    def __init__(
        self,
        recipe: Recipe,
        team: Team,
        optimizer: MakeOptimizer = adamw,
        prepare: Callable[[Interpreter], object] = lambda model: None,
        log: TextIO | None = None,
        build: BuildModel = build_model,
    ) -> None:
        """`prepare` may freeze parameters before anything is made of them; `log` is where DeepSpeed's own goes (None: stderr).

        `build` makes the model of a recipe as `build_model` does.
        """
        deepspeed = import_deepspeed(log or sys.stderr)
        watch(deepspeed, team.waiting, recipe.engine.timeout)
        self.stage, self._device = recipe.engine.stage or 0, device_of(team)
        self._cache = self.stage < 3  # it would keep copies of all scripts' weights until the last one is done
        check_device(recipe, self._device)
        self._disk = None
        if recipe.engine.offload == "nvme":
            self._disk = folder_for(recipe)
            check_async_io()
        where = Path(log.name).parent if log else Path()
        disk = self._disk and self._disk.name
        settings = settings_of(recipe, team.size, parts_of(recipe, team.size), where, disk)
        if self.stage == 3:
            model = spread(deepspeed, recipe, settings, self._device, build)
            deepspeed.utils.set_z3_leaf_modules(model, [Script])
        else:
            model = build(recipe)
            model.apply(without_empty)
        prepare(model)
        if self.stage == 3:
            check_apart(model)
        super().__init__(model, recipe, team)
        for parameter in model.parameters():
            if not parameter.ndim:
                parameter.ds_optim_param = True  # pyright: ignore[reportAttributeAccessIssue]  left out of a broadcast that fails
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch and pydantic advise DeepSpeed to do
            self.zero: Any = deepspeed.initialize(
                model=model, optimizer=lambda _: optimizer(model, recipe.train.optimizer), config=settings
            )[0]
        for script in model.scripts:
            script.register_forward_pre_hook(differentiable, prepend=True)
        self.optimizer = self.zero.optimizer
        self.parameters = Parameters(self.zero, self.stage, team, disk)
        if self.held:
            hold(self.parameters.inner, lambda: self.parameters.leading(self.held))
        self._in_order = InOrder(model, self.optimizer) if self.stage in (1, 2) else None
        self._norm_of_all = self._judging() if self.stage else None
        self._averages = self.parameters.copy() if recipe.train.average else None
        self._count = 0

    @property
    def device(self) -> torch.device:
        return self._device

    def close(self) -> None:
        """Gives back what DeepSpeed would hold for ever."""
        self.zero.destroy()
        forget()
        if self._disk is not None:
            self._disk.cleanup()

    @contextmanager
    def inference(self) -> Iterator[Interpreter]:
        if self._averages is None or not self._count:
            yield self.model
            return
        own = self.parameters.copy()
        self.parameters.set(self._averages)
        try:
            yield self.model
        except BaseException:
            if self.team.size == 1:  # others would wait for what they do not know of; their run ends with this one's
                self.parameters.set(own)
            raise
        self.parameters.set(own)

    def weights(self) -> State:
        return self.parameters.state()

    def averages(self) -> State | None:
        if self._averages is None:
            return None
        return self.parameters.state(self._averages if self._count else None)

    def optimizer_state(self) -> State:
        state = {f"optimizer/{name}": value for name, value in self.parameters.optimizer_state().items()}
        return state | {COUNT: torch.tensor(self._count)} if self._averages is not None and self.team.leads else state

    def load_weights(self, weights: Stored, averages: Stored | None, folder: Path) -> None:
        check_fit(weights, self.parameters.wanted(), folder)
        self.parameters.load(weights)
        if self._averages is not None and averages is not None:
            check_fit(averages, self.parameters.wanted(), folder)
            self._averages = self.parameters.read(averages)

    def load_optimizer_state(self, stored: Stored) -> None:
        self.parameters.load_optimizer_state(stored.under("optimizer"))
        if self._averages is not None:
            self._count = int(stored.read(COUNT))

    def _forward(self, part: Batch, detail: str) -> Forward:
        with self.autocast():
            return self.zero(part.inputs, part.mask, tuple(part.targets), detail=detail, key=part.key)

    def _backward(self, loss: Tensor) -> None:
        loss = loss * self.team.size  # of which DeepSpeed takes the mean
        if self.scale is not None:
            if self.stage:
                self.optimizer.override_loss_scale(self.scale.factor)
            else:
                loss = loss * self.scale.factor
        if self._in_order is not None:
            self._in_order.restart()
        # At stage 3 parameters are not here to be tied; a script, whose parameters come and go as one, needs it not.
        self.zero.backward(tied(loss, trainable(self.model)) if self.stage < 3 else loss, scale_wrt_gas=False)
        if self._in_order is not None:
            self._in_order.end()
        if not self.zero.is_gradient_accumulation_boundary():
            self.zero.step()  # which counts

    def _norm(self) -> Tensor:
        factor = 1.0 if self.scale is None else self.scale.factor
        if self._norm_of_all is None:
            return clipped(self.model, self.train.clip, factor)
        self._verdict = self._norm_of_all()
        return self._verdict / factor

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        if not self.stage:
            yield from super()._gradients()
            return
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = self.optimizer.fp16_groups if self.stage == 3 else self.optimizer.params_in_partition
        for number, pieces in self.optimizer.averaged_gradients.items():
            for parameter, piece in zip(groups[number], pieces or (), strict=False):  # a last one may be padding
                yield names[id(parameter)], piece

    def _take(self) -> None:
        self.zero.step()
        if not self.zero.was_step_applied():
            raise RunError("DeepSpeed left out a step that nothing is wrong with; report it to ni-framework")

    def _drop(self) -> None:
        if self.stage:
            self._verdict = torch.tensor(LEFT_OUT)
        else:
            self.zero.zero_grad()  # torch's optimizer passes over parameters without a gradient
        self.zero.step()

    def _average(self) -> None:
        if self._averages is None:
            return
        factor = self.train.average
        assert factor is not None
        weight = 1 - factor if self._count else 1.0
        for value, average in zip(self.parameters.present(), self._averages, strict=True):
            average.lerp_(value, weight)
        self._count += 1

    def _judging(self) -> Callable[[], Tensor]:
        """Has DeepSpeed take the norm that was judged, or one with which it leaves the step out, and returns how it finds one."""
        optimizer = self.optimizer
        if self.stage == 3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            groups = optimizer._get_norm_groups
            optimizer._get_norm_groups = lambda: [self._verdict]
            return lambda: combine_grad_norm_groups(groups())
        norm = optimizer.scaled_global_norm
        optimizer.scaled_global_norm = lambda norm_type=2: self._verdict
        return norm
