"""Training of several processes as one writes it down without any engine, and without DeepSpeed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ni_framework.contracts import Batch
from ni_framework.model.interpreter import Interpreter
from ni_framework.recipe import Recipe
from tests.helpers.engine_cases import Case


class Plain:
    """Each process has the whole model and its share of a batch; every gradient is added up by a message of its own."""

    def __init__(self, model: Interpreter, recipe: Recipe, case: Case) -> None:
        self.model, self.train = model, recipe.train
        self.optimizer = case.make_optimizer(model, recipe.train.optimizer)
        self.size = dist.get_world_size()

    def step(self, batch: Batch) -> Tensor:
        """One step on this process's share; the loss of the whole batch."""
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.train.precision == "bf16"):
            forward = self.model(batch.inputs, batch.mask, tuple(batch.targets), detail="losses", key=batch.key)
        of_tasks = [
            self.model.head.loss(forward.logits[task].float(), target).mean() for task, target in batch.targets.items()
        ]
        loss = torch.stack(of_tasks).mean()
        self.optimizer.zero_grad()
        sum([loss, *forward.losses.values()]).backward()  # pyright: ignore[reportAttributeAccessIssue]
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.size
        if self.train.clip is not None:
            nn.utils.clip_grad_norm_(trained, self.train.clip)
        self.optimizer.step()
        loss = loss.detach().clone()
        dist.all_reduce(loss)
        return loss / self.size
