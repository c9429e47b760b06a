"""The training step that all engines share: a batch in micro-batches, checked before the optimizer's step is taken."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.shards import ShardedState
from ni_framework.contracts import Batch
from ni_framework.data.batch import sample_weights, split_batch, to_device
from ni_framework.distributed.communicator import Communicator
from ni_framework.engines.freezing import freeze
from ni_framework.engines.grad_scaler import GradScaler
from ni_framework.engines.lr_schedule import lr_factor
from ni_framework.engines.nonfinite import NonfiniteReport, find_nonfinite
from ni_framework.engines.preconditions import check_compiler, check_precision, micro_batches_per_rank
from ni_framework.engines.step_guard import StepGuard
from ni_framework.errors import RunError
from ni_framework.model.freezing import frozen_prefix_sizes
from ni_framework.model.interpreter import Interpreter, ModelOutput
from ni_framework.nn.init import derive_seed
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.recipe import Recipe
from ni_framework.utils.prefixes import strip_prefix

# The key, in the training state, of the number of steps that the EMA of the weights has seen.
EMA_COUNT_KEY = "average/count"
PRECISION_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class StepResult(NamedTuple):
    """What a step returns.

    `values` holds the batch's means by name ("loss", "accuracy", auxiliary losses), as tensors on the device; `output` and
    `micro_batch` belong to this rank's last micro-batch. `skip_reason` is why the step was skipped, and is None if it was
    taken, or skipped for an overflow of fp16.
    """

    values: dict[str, Tensor]
    output: ModelOutput
    micro_batch: Batch
    skip_reason: str | None = None


class BatchSums(NamedTuple):
    """Sums over all micro-batches of all ranks: the total loss, the values to report, and the components' statistics."""

    loss: Tensor
    values: dict[str, Tensor]
    statistics: dict[str, Tensor]


class Engine(ABC):
    """Holds the model and the optimizer, and carries out one training step at a time, together with the other ranks."""

    # torch's optimizer, or DeepSpeed's in its place.
    optimizer: Any
    # Whether autocast caches the weights that it has cast.
    _autocast_cache = True

    def __init__(self, model: Interpreter, recipe: Recipe, comm: Communicator) -> None:
        """Prepares the model for training: compiles its bodies and freezes weights, as the recipe asks for.

        Args:
            model: The model, on the device on which it is trained.
            recipe: Where training, precision and engine are configured.
            comm: The ranks that train together.

        Raises:
            RecipeError: The precision does not suit the device, or the ranks cannot share a batch evenly.
            RunError: `engine.compile` is set and there is no C++ compiler.
        """
        self.model, self.train_config, self.comm = model, recipe.train, comm
        self.num_micro_batches = micro_batches_per_rank(recipe, comm.world_size)
        for script in model.scripts:
            script.activation_checkpointing = recipe.train.activation_checkpointing
            if recipe.engine.compile:
                check_compiler(self.device)
                for body in (script.body, *script.bodies):
                    body.compile()
        check_precision(recipe, self.device)
        self.seed, self.frozen_prefix_sizes = recipe.seed, frozen_prefix_sizes(recipe)
        freeze(model, self.frozen_prefix_sizes)
        # The parameters that the optimizer is made for: `_check_parameters` compares with them before each step.
        self._parameters = dict(model.named_parameters())
        self.guard = StepGuard(recipe.train.skip)
        self.grad_scaler = GradScaler() if recipe.train.precision == "fp16" else None
        # The first parameter whose gradient was not finite in the last skipped step, if nothing else explains the step.
        self._nonfinite_gradient: str | None = None
        # True while a step changes weights, EMA and optimizer state: until it is done they do not match each other.
        self.is_updating = False

    @property
    def num_parameters(self) -> int:
        """The number of weights of the model; of a sharded one, those of all ranks together."""
        return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in self.model.parameters())

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device on which this rank computes."""

    @abstractmethod
    def close(self) -> None:
        """Frees whatever would outlive the engine."""

    @abstractmethod
    def inference(self) -> AbstractContextManager[Interpreter]:
        """Returns the model to evaluate: with EMA weights if there are any, a_1 = w_1 and a_t = f a_{t-1} + (1 - f) w_t."""

    @abstractmethod
    def weights(self) -> ShardedState:
        """Returns the weights and buffers that this rank stores in a checkpoint, by name."""

    @abstractmethod
    def ema_weights(self) -> ShardedState | None:
        """Returns the same for the EMA weights; None without `train.ema_decay`."""

    @abstractmethod
    def optimizer_state(self) -> ShardedState:
        """Returns the optimizer state that this rank stores, by "optimizer/<kind>/<parameter>", and `EMA_COUNT_KEY`."""

    @abstractmethod
    def load_weights(self, weights: TensorReader, ema_weights: TensorReader | None, folder: Path) -> None:
        """Loads stored weights and EMA weights, whatever the number of ranks that stored them.

        Args:
            weights: The stored weights and buffers.
            ema_weights: The stored EMA weights; None if the checkpoint has none.
            folder: The checkpoint, for error messages.

        Raises:
            CheckpointError: They do not fit this model.
        """

    @abstractmethod
    def load_optimizer_state(self, stored: TensorReader) -> None:
        """Loads a stored optimizer state; raises `CheckpointError` if it does not fit."""

    @abstractmethod
    def _forward(self, micro_batch: Batch, detail: str) -> ModelOutput:
        """Runs the forward pass of a micro-batch."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Adds the gradients of a micro-batch; after the last one of every rank they are the whole batch's gradients."""

    @abstractmethod
    def _grad_norm(self) -> Tensor:
        """Returns the norm of the whole batch's gradient, before it is clipped."""

    @abstractmethod
    def _optimizer_step(self) -> None:
        """Takes the optimizer's step, with a clipped gradient."""

    @abstractmethod
    def _update_ema(self) -> None:
        """Adds the new weights to the EMA."""

    @abstractmethod
    def _skip_step(self) -> None:
        """Discards the gradients without a step."""

    def autocast(self) -> torch.autocast:
        """Returns the autocast context of the forward pass; weights and optimizer stay in fp32."""
        dtype = PRECISION_DTYPES[self.train_config.precision]
        return torch.autocast(self.device.type, dtype, dtype != torch.float32, self._autocast_cache)

    def lr_at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        return self.train_config.optimizer.lr * lr_factor(step, self.train_config.steps, self.train_config.schedule)

    def training_state(self) -> ShardedState:
        """Returns what the next step needs in addition to the weights; randomness is a function of seed and step."""
        state = dict(self.optimizer_state())
        if self.comm.is_rank_zero:
            state |= {f"guard/{name}": value for name, value in self.guard.state().items()}
            if self.grad_scaler is not None:
                state["scale/values"] = self.grad_scaler.state()
        return state

    def load_training_state(self, stored: TensorReader) -> None:
        """Restores what `training_state` returned, whatever the number of ranks that stored it."""
        self.load_optimizer_state(stored)
        self.guard.load_state(stored.with_prefix("guard").read_all())
        if self.grad_scaler is not None and "scale/values" in stored:
            self.grad_scaler.load_state(stored.read("scale/values"))

    def step(self, step: int, batch: Batch, trace: bool) -> StepResult:
        """Takes one optimizer step on this rank's part of a batch, in micro-batches whose gradients add up to the batch's.

        If the guard rejects the step, nothing changes on any rank.

        Args:
            step: Its number, counted from 0.
            batch: This rank's part of the batch.
            trace: Whether the output of the last micro-batch holds the trace of the routing.

        Returns:
            The batch's values, the last output, and why the step was skipped.

        Raises:
            RunError: A parameter of the model has been replaced since training was set up.
        """
        self._check_parameters(step)
        self.model.train()
        self.optimizer.zero_grad()
        with self._sample_iterations(step):
            return self._step(step, to_device(batch, self.device), "trace" if trace else "losses")

    def _step(self, step: int, batch: Batch, detail: str) -> StepResult:
        sums, output, micro_batch = self._accumulate_gradients(batch, detail)
        loss, grad_norm = torch.stack([sums.loss, self._grad_norm().to(self.device)]).tolist()
        # The loss is not scaled. If it is not finite, that is a fault, which no smaller scale could repair.
        overflow = self.grad_scaler is not None and math.isfinite(loss) and self.grad_scaler.check_overflow(grad_norm)
        skip_reason = None if overflow else self.guard.check(loss, grad_norm)
        if overflow or skip_reason:
            # If the loss is not finite, neither are most gradients, and the forward pass shows more of the cause.
            only_gradient_nonfinite = skip_reason is not None and math.isfinite(loss) and not math.isfinite(grad_norm)
            self._nonfinite_gradient = self._first_nonfinite_gradient() if only_gradient_nonfinite else None
            self._skip_step()
        else:
            self._update(step, sums.statistics)
        return StepResult(sums.values, output, micro_batch, skip_reason)

    def _accumulate_gradients(self, batch: Batch, detail: str) -> tuple[BatchSums, ModelOutput, Batch]:
        """Runs forward and backward of all micro-batches; returns the sums, and the last micro-batch with its output."""
        counts = self.comm.all_reduce_sum_dict({task: sample_weights(batch, task).sum() for task in batch.targets})
        counts = {task: count.clamp_min(1) for task, count in counts.items()}
        micro_batches = split_batch(batch, self.num_micro_batches)
        total_micro_batches = len(micro_batches) * self.comm.world_size
        loss = torch.zeros((), device=self.device)
        values: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        for micro_batch in micro_batches:
            output = self._forward(micro_batch, detail)
            losses = {name: aux_loss / total_micro_batches for name, aux_loss in output.losses.items()}
            losses["loss"], metrics = self._loss_and_metrics(output.logits, micro_batch, counts)
            micro_batch_loss = torch.stack(list(losses.values())).sum()
            self._backward(micro_batch_loss)
            loss = loss + micro_batch_loss.detach()
            _add_in_place(values, metrics | losses)
            _add_in_place(statistics, output.statistics)
        sums = _all_reduce_groups(self.comm, {"loss": {"": loss}, "values": values, "statistics": statistics})
        return BatchSums(sums["loss"][""], sums["values"], sums["statistics"]), output, micro_batch  # pyright: ignore[reportPossiblyUnboundVariable]

    def _update(self, step: int, statistics: dict[str, Tensor]) -> None:
        """Takes the optimizer's step, and updates buffers and EMA."""
        self.is_updating = True
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(step)
        self._optimizer_step()
        self.model.update_buffers(statistics)
        self._update_ema()
        self.is_updating = False

    def _check_parameters(self, step: int) -> None:
        now = dict(self.model.named_parameters())
        for name in sorted(now.keys() | self._parameters.keys()):
            if now.get(name) is not self._parameters.get(name):
                raise RunError(
                    f"step {step + 1}: {name} is not the parameter that training was set up with, and would never be trained; "
                    "change a model between runs, as `ni grow` does"
                )

    @contextmanager
    def _sample_iterations(self, step: int) -> Iterator[None]:
        """Sets the numbers of iterations of a step, the same ones on all ranks, and restores the recipe's afterwards."""
        max_iterations = self.model.iterations
        if self.train_config.random_iterations:
            key_S = rng_keys(derive_seed("iterations", self.seed, step), torch.arange(len(max_iterations)))
            drawn_S = uniform(key_S, 1)[:, 0].tolist()
            self.model.iterations = [
                1 + int(draw * largest) for draw, largest in zip(drawn_S, max_iterations, strict=True)
            ]
        try:
            yield
        finally:
            self.model.iterations = max_iterations

    def find_nonfinite(self, batch: Batch) -> NonfiniteReport:
        """Returns what went wrong in the last step, which was skipped, on this rank's part of its batch."""
        self.model.train()
        return find_nonfinite(
            self.model,
            split_batch(to_device(batch, self.device), self.num_micro_batches),
            self.autocast(),
            self._nonfinite_gradient,
        )

    def _named_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the whole batch's gradients that this rank holds, or its shards of them, with their parameters' names."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                yield name, parameter.grad

    def _first_nonfinite_gradient(self) -> str | None:
        """Returns the first parameter of the model whose gradient is not finite on any rank."""
        local_names = {name for name, gradient in self._named_gradients() if not gradient.isfinite().all()}
        nonfinite_names = {name for names in self.comm.all_gather_json(sorted(local_names)) for name in names}
        return next((name for name, _ in self.model.named_parameters() if name in nonfinite_names), None)

    def _loss_and_metrics(
        self, logits: dict[str, Tensor], micro_batch: Batch, counts: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns what a micro-batch adds to the batch's loss and metrics, which are means over samples and then tasks."""
        losses: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for task, target in micro_batch.targets.items():
            weight_B = sample_weights(micro_batch, task) / (counts[task] * len(micro_batch.targets))
            task_logits = logits[task].float()
            losses.append((self.model.head.loss(task_logits, target) * weight_B).sum())
            for name, value in self.model.head.metrics(task_logits.detach(), target).items():
                metrics[name] = metrics.get(name, 0) + (value * weight_B).sum()
        return torch.stack(losses).sum(), metrics


def _add_in_place(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Adds values to sums by name; a name that is new starts from 0."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value.detach()


def _all_reduce_groups(comm: Communicator, groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Returns the groups with each tensor summed over all ranks, in a single all-reduce."""
    flat = {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
    sums = comm.all_reduce_sum_dict(flat)
    return {group: strip_prefix(f"{group}/", sums) for group in groups}


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def clip_gradients(model: nn.Module, max_norm: float | None, loss_scale: float = 1.0) -> Tensor:
    """Divides the gradients by the loss scale, clips them, and returns their norm before clipping.

    A parameter without a gradient gets one of zero, so that weight decay applies to it in every engine.

    Args:
        model: The model whose trainable parameters have gradients.
        max_norm: The largest norm that all gradients together may have; None for no clipping.
        loss_scale: The factor by which the loss was multiplied.
    """
    gradients = []
    for parameter in trainable_parameters(model):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    if loss_scale != 1:
        for gradient in gradients:
            gradient.div_(loss_scale)
    norm = nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        # Clipping by a norm that is not finite would make every gradient nonfinite and hide which one was first.
        nn.utils.clip_grads_with_norm_(trainable_parameters(model), max_norm, torch.where(norm.isfinite(), norm, 0))
    return norm
