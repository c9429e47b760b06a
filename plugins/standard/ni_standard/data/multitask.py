"""Several data sets as the tasks of one model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from ni_framework.contracts import Batch, ComponentFactory, ComponentSpec, Data, Split
from ni_framework.errors import OptionError
from ni_framework.options import component_option, config


class Multitask(Data):
    """Other data sets, each of one task, under the names in the recipe; their inputs must have the same shape.

    A sample has a target for its own task only. All samples are drawn equally often, so larger data sets are drawn more often.
    Source: the author's `num_classes_in_dataset`, and the paper's multi-task experiment.
    """

    @config
    class Config:
        tasks: dict[str, ComponentSpec] = component_option(
            "data", example={"a": "digits", "b": "digits"}, help="a data set for each task, by the task's name"
        )

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        self.datasets: dict[str, Data] = {name: build("data", choice, build) for name, choice in config.tasks.items()}
        if len(self.datasets) < 2:
            raise OptionError("tasks", "must name at least two data sets", "use a single data set directly as `data`")
        shapes = {name: tuple(part.shape) for name, part in self.datasets.items()}
        self.shape = next(iter(shapes.values()))
        for name, part in self.datasets.items():
            if len(part.tasks) != 1:
                raise OptionError(
                    f"tasks.{name}", f"has {len(part.tasks)} tasks ({', '.join(part.tasks)}), but must have one"
                )
            if shapes[name] != self.shape:
                first = next(iter(shapes))
                message = f"has inputs of shape {list(shapes[name])}, but those of {first} have {list(self.shape)}"
                raise OptionError(f"tasks.{name}", message, "make the shapes equal")
        self.tasks: Mapping[str, int] = {name: next(iter(part.tasks.values())) for name, part in self.datasets.items()}

    def open(self) -> dict[str, MultitaskSplit]:
        splits_by_task = {name: part.open() for name, part in self.datasets.items()}
        return {
            part: MultitaskSplit({name: splits[part] for name, splits in splits_by_task.items()})
            for part in ("train", "test")
        }


class MultitaskSplit:
    """One split of several data sets: the samples of one data set after the other."""

    def __init__(self, splits: Mapping[str, Split]) -> None:
        self.splits = splits
        *self.starts, self.size = accumulate((len(split) for split in splits.values()), initial=0)

    def __len__(self) -> int:
        return self.size

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        inputs: Tensor | None = None
        targets, present = {}, {}
        for (name, split), start in zip(self.splits.items(), self.starts, strict=True):
            in_split_B = (index_B >= start) & (index_B < start + len(split))
            present[name] = in_split_B
            targets[name] = torch.zeros(len(index_B), dtype=torch.long)
            if in_split_B.any():
                batch = split.batch(index_B[in_split_B] - start, None if key_B is None else key_B[in_split_B])
                if inputs is None:
                    inputs = batch.inputs.new_zeros(len(index_B), *batch.inputs.shape[1:])
                inputs[in_split_B] = batch.inputs
                (targets[name][in_split_B],) = batch.targets.values()
        # Every index belongs to one of the data sets.
        assert inputs is not None
        return Batch(inputs, targets, present=present)
