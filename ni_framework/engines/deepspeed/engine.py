"""The engine that trains with DeepSpeed: any stage of ZeRO, on any number of ranks."""

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
from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.shards import ShardedState
from ni_framework.contracts import Batch
from ni_framework.distributed.communicator import Communicator
from ni_framework.engines.base import EMA_COUNT_KEY, Engine, clip_gradients, trainable_parameters
from ni_framework.engines.deepspeed.comm_monitor import monitor_comm
from ni_framework.engines.deepspeed.config import build_deepspeed_config, check_device
from ni_framework.engines.deepspeed.empty_parameters import empty_parameters_to_buffers
from ni_framework.engines.deepspeed.global_state import reset_deepspeed_globals
from ni_framework.engines.deepspeed.grad_norm import GradNormOverride
from ni_framework.engines.deepspeed.grad_order import GradientOrderer
from ni_framework.engines.deepspeed.input_grad import require_input_grad
from ni_framework.engines.deepspeed.nvme_offload.folder import create_swap_dir, prepare_async_io
from ni_framework.engines.deepspeed.scalar_parameters import exclude_scalars_from_broadcast
from ni_framework.engines.deepspeed.setup import import_deepspeed, local_device
from ni_framework.engines.deepspeed.sharded_build import ModelFactory, build_sharded, require_script_local_parameters
from ni_framework.engines.deepspeed.sharded_parameters import ShardedParameters
from ni_framework.engines.deepspeed.zero_grads import with_zero_grads
from ni_framework.engines.freezing import restore_frozen_after_step
from ni_framework.engines.optim import OptimizerFactory, build_adamw
from ni_framework.engines.preconditions import micro_batches_per_rank
from ni_framework.errors import RunError
from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter, ModelOutput
from ni_framework.model.script import Script
from ni_framework.recipe import Recipe


class ZeroEngine(Engine):
    """Runs the shared training step with DeepSpeed's engine. Weights are fp32 in every precision, as in the local engine.

    At stage 3 a script is gathered as a whole, once for all of its iterations. What a loss is, which steps are skipped, and what
    checkpoints contain is decided here and not by DeepSpeed; the modules of this package named "Workaround" describe what of
    DeepSpeed is changed for it. Source: Rajbhandari et al., "ZeRO" (2020).
    """

    def __init__(
        self,
        recipe: Recipe,
        comm: Communicator,
        optimizer: OptimizerFactory = build_adamw,
        prepare: Callable[[Interpreter], object] = lambda model: None,
        log: TextIO | None = None,
        build: ModelFactory = build_model,
    ) -> None:
        """Builds the model and DeepSpeed's engine; all ranks do so together.

        Args:
            recipe: What is trained, and how.
            comm: The ranks.
            optimizer: Makes the optimizer.
            prepare: Called with the model before the optimizer exists; it may freeze parameters.
            log: Where DeepSpeed's log goes; None for stderr. Files that DeepSpeed writes go to the same folder.
            build: Builds the model of a recipe, as `build_model` does.

        Raises:
            RecipeError: The recipe does not suit this machine or the number of ranks.
            RunError: DeepSpeed cannot be imported, or cannot train this model.
        """
        self.stage = recipe.engine.stage or 0
        # At stage 3 the cache would keep copies of every script's weights until the last script is done.
        self._autocast_cache = self.stage < 3
        deepspeed = self._set_up_deepspeed(recipe, comm, log)
        settings = self._build_settings(recipe, comm, log)
        model = self._build_model(deepspeed, recipe, settings, build)
        prepare(model)
        if self.stage == 3:
            require_script_local_parameters(model)
        super().__init__(model, recipe, comm)
        self._initialize_deepspeed(deepspeed, recipe, settings, optimizer)
        self.parameters = ShardedParameters(self.deepspeed_engine, self.stage, comm, self._swap_path)
        if self.frozen_prefix_sizes:
            restore_frozen_after_step(
                self.parameters.base_optimizer, lambda: self.parameters.frozen_views(self.frozen_prefix_sizes)
            )
        self._gradient_orderer = GradientOrderer(model, self.optimizer) if self.stage in (1, 2) else None
        self._grad_norm_override = GradNormOverride(self.optimizer, self.stage) if self.stage else None
        self._ema_weights = self.parameters.copy() if recipe.train.ema_decay else None
        self._ema_count = 0

    def _set_up_deepspeed(self, recipe: Recipe, comm: Communicator, log: TextIO | None) -> Any:
        """Imports DeepSpeed, monitors its communication, and prepares device and disk; returns the package."""
        deepspeed = import_deepspeed(log or sys.stderr)
        monitor_comm(deepspeed, comm.wait_timer, recipe.engine.timeout)
        self._device = local_device(comm)
        check_device(recipe, self._device)
        self._swap_dir = None
        if recipe.engine.offload == "nvme":
            self._swap_dir = create_swap_dir(recipe)
            prepare_async_io()
        self._swap_path = self._swap_dir and self._swap_dir.name
        return deepspeed

    def _build_settings(self, recipe: Recipe, comm: Communicator, log: TextIO | None) -> dict[str, Any]:
        micro_batches = micro_batches_per_rank(recipe, comm.world_size)
        log_dir = Path(log.name).parent if log else Path()
        return build_deepspeed_config(recipe, comm.world_size, micro_batches, log_dir, self._swap_path)

    def _build_model(
        self, deepspeed: Any, recipe: Recipe, settings: dict[str, Any], build: ModelFactory
    ) -> Interpreter:
        """Builds the model: sharded at stage 3, where a script is gathered as a whole, and in full at other stages."""
        if self.stage == 3:
            model = build_sharded(deepspeed, recipe, settings, self._device, build)
            deepspeed.utils.set_z3_leaf_modules(model, [Script])
        else:
            model = build(recipe)
            model.apply(empty_parameters_to_buffers)
        return model

    def _initialize_deepspeed(
        self, deepspeed: Any, recipe: Recipe, settings: dict[str, Any], optimizer: OptimizerFactory
    ) -> None:
        """Makes DeepSpeed's engine and optimizer for the model."""
        exclude_scalars_from_broadcast(self.model)
        with warnings.catch_warnings():
            # torch and pydantic warn of how DeepSpeed uses them.
            warnings.simplefilter("ignore")
            self.deepspeed_engine: Any = deepspeed.initialize(
                model=self.model, optimizer=lambda _: optimizer(self.model, recipe.train.optimizer), config=settings
            )[0]
        for script in self.model.scripts:
            script.register_forward_pre_hook(require_input_grad, prepend=True)
        self.optimizer = self.deepspeed_engine.optimizer

    @property
    def device(self) -> torch.device:
        return self._device

    def close(self) -> None:
        """Destroys DeepSpeed's engine, resets DeepSpeed's global state, and removes the files on the disk."""
        self.deepspeed_engine.destroy()
        reset_deepspeed_globals()
        if self._swap_dir is not None:
            self._swap_dir.cleanup()

    @contextmanager
    def inference(self) -> Iterator[Interpreter]:
        if self._ema_weights is None or not self._ema_count:
            yield self.model
            return
        original_values = self.parameters.copy()
        self.parameters.set_values(self._ema_weights)
        try:
            yield self.model
        except BaseException:
            # Several ranks would have to set the values together, but the others have not failed here. Their run ends anyway.
            if self.comm.world_size == 1:
                self.parameters.set_values(original_values)
            raise
        self.parameters.set_values(original_values)

    def weights(self) -> ShardedState:
        return self.parameters.state()

    def ema_weights(self) -> ShardedState | None:
        if self._ema_weights is None:
            return None
        return self.parameters.state(self._ema_weights if self._ema_count else None)

    def optimizer_state(self) -> ShardedState:
        state = {f"optimizer/{name}": value for name, value in self.parameters.optimizer_state().items()}
        if self._ema_weights is not None and self.comm.is_rank_zero:
            state[EMA_COUNT_KEY] = torch.tensor(self._ema_count)
        return state

    def load_weights(self, weights: TensorReader, ema_weights: TensorReader | None, folder: Path) -> None:
        check_fit(weights, self.parameters.expected_state(), folder)
        self.parameters.load(weights)
        if self._ema_weights is not None and ema_weights is not None:
            check_fit(ema_weights, self.parameters.expected_state(), folder)
            self._ema_weights = self.parameters.read_values(ema_weights)

    def load_optimizer_state(self, stored: TensorReader) -> None:
        self.parameters.load_optimizer_state(stored.with_prefix("optimizer"))
        if self._ema_weights is not None:
            self._ema_count = int(stored.read(EMA_COUNT_KEY))

    def _forward(self, micro_batch: Batch, detail: str) -> ModelOutput:
        with self.autocast():
            return self.deepspeed_engine(
                micro_batch.inputs, micro_batch.mask, tuple(micro_batch.targets), detail=detail, key=micro_batch.key
            )

    def _backward(self, loss: Tensor) -> None:
        # DeepSpeed computes the mean over ranks, and the loss is to be summed.
        loss = loss * self.comm.world_size
        if self.grad_scaler is not None:
            if self.stage:
                self.optimizer.override_loss_scale(self.grad_scaler.scale)
            else:
                loss = loss * self.grad_scaler.scale
        if self._gradient_orderer is not None:
            self._gradient_orderer.start_backward()
        if self.stage < 3:
            # At stage 3 this is neither possible, since parameters are not gathered here, nor needed, since the parameters of
            # a script are gathered and reduced together.
            loss = with_zero_grads(loss, trainable_parameters(self.model))
        self.deepspeed_engine.backward(loss, scale_wrt_gas=False)
        if self._gradient_orderer is not None:
            self._gradient_orderer.finish_backward()
        if not self.deepspeed_engine.is_gradient_accumulation_boundary():
            # Within a batch this takes no step, but counts the micro-batch.
            self.deepspeed_engine.step()

    def _grad_norm(self) -> Tensor:
        loss_scale = 1.0 if self.grad_scaler is None else self.grad_scaler.scale
        if self._grad_norm_override is None:
            return clip_gradients(self.model, self.train_config.max_grad_norm, loss_scale)
        return self._grad_norm_override.measure() / loss_scale

    def _named_gradients(self) -> Iterator[tuple[str, Tensor]]:
        if not self.stage:
            yield from super()._named_gradients()
            return
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = self.optimizer.fp16_groups if self.stage == 3 else self.optimizer.params_in_partition
        for number, shards in self.optimizer.averaged_gradients.items():
            for parameter, shard in zip(groups[number], shards or (), strict=False):
                # There may be one more shard, of padding.
                yield names[id(parameter)], shard

    def _optimizer_step(self) -> None:
        self.deepspeed_engine.step()
        if not self.deepspeed_engine.was_step_applied():
            raise RunError("DeepSpeed skipped a step that nothing is wrong with; report this to ni-framework")

    def _skip_step(self) -> None:
        if self._grad_norm_override is not None:
            self._grad_norm_override.skip_next_step()
        else:
            # At stage 0 torch's optimizer takes the step; it skips parameters without a gradient.
            self.deepspeed_engine.zero_grad()
        self.deepspeed_engine.step()

    def _update_ema(self) -> None:
        if self._ema_weights is None:
            return
        decay = self.train_config.ema_decay
        assert decay is not None
        weight = 1 - decay if self._ema_count else 1.0
        for value, average in zip(self.parameters.local_values(), self._ema_weights, strict=True):
            average.lerp_(value, weight)
        self._ema_count += 1
