"""Several data sets as the tasks of one model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from ni_framework.contracts import Batch, Build, Choice, Data, Split
from ni_framework.errors import OptionError
from ni_framework.options import component, config


class Multitask(Data):
    """Other data sets, each of one task, under the names that the recipe gives them; their inputs must be alike.

    A sample has an answer for its own task only, and is drawn as often as any other, so that larger sets are seen more.
    Source: the author's `num_classes_in_dataset`, and the paper's multi-task experiment.
    """

    @config
    class Config:
        tasks: dict[str, Choice] = component(
            "data", example={"a": "digits", "b": "digits"}, help="a data set for each task, by the task's name"
        )

    def __init__(self, config: Config, build: Build) -> None:
        self.parts: dict[str, Data] = {name: build("data", choice, build) for name, choice in config.tasks.items()}
        if len(self.parts) < 2:
            raise OptionError("tasks", "must name at least two data sets", "use a single one as `data` itself")
        shapes = {name: tuple(part.shape) for name, part in self.parts.items()}
        self.shape = next(iter(shapes.values()))
        for name, part in self.parts.items():
            if len(part.tasks) != 1:
                raise OptionError(
                    f"tasks.{name}", f"has {len(part.tasks)} tasks ({', '.join(part.tasks)}), but one is needed"
                )
            if shapes[name] != self.shape:
                first = next(iter(shapes))
                message = f"has inputs of shape {list(shapes[name])}, but those of {first} have {list(self.shape)}"
                raise OptionError(f"tasks.{name}", message, "make the shapes equal")
        self.tasks: Mapping[str, int] = {name: next(iter(part.tasks.values())) for name, part in self.parts.items()}

    def open(self) -> dict[str, MultitaskSplit]:
        opened = {name: part.open() for name, part in self.parts.items()}
        return {
            part: MultitaskSplit({name: splits[part] for name, splits in opened.items()}) for part in ("train", "test")
        }


class MultitaskSplit:
    """One part of several data sets: their samples one set after the other."""

    def __init__(self, splits: Mapping[str, Split]) -> None:
        self.splits = splits
        *self.starts, self.size = accumulate((len(split) for split in splits.values()), initial=0)

    def __len__(self) -> int:
        return self.size

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        inputs: Tensor | None = None
        targets, present = {}, {}
        for (name, split), start in zip(self.splits.items(), self.starts, strict=True):
            here_B = (index_B >= start) & (index_B < start + len(split))
            present[name] = here_B
            targets[name] = torch.zeros(len(index_B), dtype=torch.long)
            if here_B.any():
                batch = split.batch(index_B[here_B] - start, None if key_B is None else key_B[here_B])
                if inputs is None:
                    inputs = batch.inputs.new_zeros(len(index_B), *batch.inputs.shape[1:])
                inputs[here_B] = batch.inputs
                (targets[name][here_B],) = batch.targets.values()
        assert inputs is not None  # an index lies in some set
        return Batch(inputs, targets, present=present)
