"""Data-parallel training in plain torch, without any engine and without DeepSpeed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ni_framework.contracts import Batch
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from tests.helpers.engine_cases import EngineCase


class PlainDataParallel:
    """Each rank has the whole model and its share of a batch; every gradient has an all-reduce of its own."""

    def __init__(self, model: Interpreter, recipe: Recipe, case: EngineCase) -> None:
        self.model, self.train = model, recipe.train
        self.optimizer = case.make_optimizer(model, recipe.train.optimizer)
        self.world_size = dist.get_world_size()

    def step(self, batch: Batch) -> Tensor:
        """Takes one step on this rank's share of a batch; returns the loss of the whole batch."""
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.train.precision == "bf16"):
            output = self.model(batch.inputs, batch.mask, tuple(batch.targets), detail="losses", key=batch.key)
        task_losses = [
            self.model.head.loss(output.logits[task].float(), target).mean() for task, target in batch.targets.items()
        ]
        loss = torch.stack(task_losses).mean()
        self.optimizer.zero_grad()
        sum([loss, *output.losses.values()]).backward()  # pyright: ignore[reportAttributeAccessIssue]
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trainable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world_size
        if self.train.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(trainable, self.train.max_grad_norm)
        self.optimizer.step()
        loss = loss.detach().clone()
        dist.all_reduce(loss)
        return loss / self.world_size
