"""The head for classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import Head
from ni_framework.errors import OptionError
from ni_framework.options import config, option


class Classify(Head):
    """LayerNorm and a linear map on the final state of a CLS element: [B, V, D] -> {task: [B, classes]}.

    Each task has its own CLS element and its own map, or all tasks share one. Equal CLS elements stay equal, so a shared one is
    computed once, and attention counts it once for each task. Source: Neural Interpreters, section 3.1, and the author's code.
    """

    @config
    class Config:
        shared_cls: bool = option(default=False, help="one CLS element for all tasks")
        shared_head: bool = option(
            default=False, help="one LayerNorm and linear map for all tasks, which must have the same number of classes"
        )
        label_smoothing: float = option(
            default=0.0, ge=0, lt=1, help="part of the target that is spread evenly over the classes in training"
        )

    def __init__(self, config: Config, width: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        if single := [task for task, classes in tasks.items() if classes == 1]:
            raise OptionError(
                "",
                f"{single[0]} has one class, so there is nothing to classify",
                "use the head `regress` for tasks whose targets are real numbers",
            )
        if config.shared_head and len(set(tasks.values())) > 1:
            sizes = ", ".join(f"{task} {classes}" for task, classes in tasks.items())
            raise OptionError(
                "shared_head", f"the tasks differ in their number of classes: {sizes}", "use `shared_head: false`"
            )
        self.config = config
        self.tasks = tuple(tasks)
        self.cls = nn.Parameter(torch.empty(1 if config.shared_cls else len(tasks), width))
        classes = list(tasks.values())[:1] if config.shared_head else list(tasks.values())
        self.maps = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, number)) for number in classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.cls)

    def cls_tokens(self, tasks: Sequence[str]) -> tuple[Tensor, int]:
        if self.config.shared_cls:
            return self.cls, len(tasks)
        return self.cls[[self.tasks.index(task) for task in tasks]], 1

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> dict[str, Tensor]:
        logits = {}
        for place, task in enumerate(tasks):
            linear = self.maps[0 if self.config.shared_head else self.tasks.index(task)]
            logits[task] = linear(x_BVD[:, 0 if self.config.shared_cls else place])
        return logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=self.config.label_smoothing)

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {
            "loss": F.cross_entropy(logits, target, reduction="none"),
            "accuracy": (logits.argmax(dim=-1) == target).float(),
        }
