"""The whole model: input, CLS elements, the program of scripts, and the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from ni_framework.contracts import Head, Input
from ni_framework.errors import UsageError
from ni_framework.model.script import Passage, Script


class Forward(NamedTuple):
    """A forward in full: answers, auxiliary losses by name, and what each script did."""

    logits: dict[str, Tensor]
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]  # by "<script>.<part>.<name>", for `Interpreter.absorb`
    passages: list[Passage]


class _Scripts(nn.ModuleList):
    """A module list of which a type checker knows what it holds."""

    def __iter__(self) -> Iterator[Script]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return iter(self._modules.values())  # pyright: ignore[reportReturnType]


class Interpreter(nn.Module):
    """A Neural Interpreter: inputs [B, *shape] -> {task: logits [B, classes]}.

    Elements are the CLS elements of the tasks, then the input's. Source: Neural Interpreters, section 3.
    """

    def __init__(self, input: Input, scripts: Sequence[Script], head: Head, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = dict(tasks)
        self.input = input
        self.scripts = _Scripts(scripts)
        self.head = head

    @property
    def iterations(self) -> tuple[int, ...]:
        """How often each script repeats its iteration; assign one number for all, or one for each."""
        return tuple(script.iterations for script in self.scripts)

    @iterations.setter
    def iterations(self, value: int | Sequence[int]) -> None:
        numbers = tuple(value) if isinstance(value, Sequence) else (value,) * len(self.scripts)
        whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers)
        if len(numbers) != len(self.scripts) or not whole:
            raise UsageError(
                f"iterations: {value!r} does not fit {len(self.scripts)} scripts; "
                "give a whole number of at least 1, or one for each script"
            )
        for script, number in zip(self.scripts, numbers, strict=True):
            script.iterations = number

    @overload
    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        detail: None = None,
        key: Tensor | None = None,
    ) -> dict[str, Tensor]: ...

    @overload
    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        *,
        detail: Literal["losses", "trace"],
        key: Tensor | None = None,
    ) -> Forward: ...

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        tasks: Sequence[str] | None = None,
        detail: Literal["losses", "trace"] | None = None,
        key: Tensor | None = None,
    ) -> dict[str, Tensor] | Forward:
        """Answers of `tasks` (default: all), of which only their CLS elements take part, in that order.

        CLS elements see each other, so that with own ones an answer depends on which other tasks are asked for.
        `mask` [B, N] bool over the input's elements, True = present: a masked element influences nothing. With `detail` the
        auxiliary losses and statistics come too, and with "trace" what each iteration did. Where a component draws noise,
        it depends on `key` [B] int64; without one, on torch's generator in training and on the place in the batch otherwise.
        Raises `UsageError` for a wrong shape or task.
        """
        tasks = known_tasks(tasks, self.tasks)
        self._check(inputs, mask, key)
        x_BND = self.input(inputs, mask)
        cls_LD, multiplicity = self.head.start(tasks)
        present_BV = multiplicity_V = None
        if mask is not None:
            x_BND = torch.where(mask.unsqueeze(-1), x_BND, 0)
            present_BV = torch.cat([mask.new_ones(len(mask), len(cls_LD)), mask], dim=1)
        x_BVD = torch.cat([cls_LD.to(x_BND.dtype).expand(len(x_BND), -1, -1), x_BND], dim=1)
        if multiplicity > 1:
            multiplicity_V = x_BVD.new_ones(x_BVD.shape[1])
            multiplicity_V[: len(cls_LD)] = multiplicity
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        passages = []
        for number, script in enumerate(self.scripts):
            passage = script(x_BVD, present_BV, multiplicity_V, key, trace=detail == "trace", tasks=tasks)
            x_BVD = passage.output_BVD
            passages.append(passage)
            for name, loss in passage.losses.items():
                losses[name] = losses.get(name, 0) + loss
            statistics |= {f"{number}.{name}": value for name, value in passage.statistics.items()}
        logits = self.head(x_BVD, present_BV, tasks)
        return logits if detail is None else Forward(logits, losses, statistics, passages)

    @torch.no_grad()
    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        """Hands a step's statistics, those of its forwards added up, to the components they came from."""
        for number, script in enumerate(self.scripts):
            prefix = f"{number}."
            script.absorb({n.removeprefix(prefix): value for n, value in statistics.items() if n.startswith(prefix)})

    def _check(self, inputs: Tensor, mask: Tensor | None, key: Tensor | None) -> None:
        if inputs.shape[1:] != self.input.shape:
            raise UsageError(
                f"inputs: expected shape [B, {', '.join(map(str, self.input.shape))}], not {list(inputs.shape)}; "
                "the shape of one input stands in the recipe under model.input"
            )
        if key is not None and (list(key.shape) != [len(inputs)] or key.dtype != torch.int64):
            raise UsageError(
                f"key: expected int64 of shape [{len(inputs)}], one number a sample, "
                f"not {str(key.dtype).removeprefix('torch.')} of shape {list(key.shape)}"
            )
        if mask is None:
            return
        expected = [len(inputs), self.input.num_elements]
        if list(mask.shape) != expected or mask.dtype != torch.bool:
            raise UsageError(
                f"mask: expected bool of shape {expected} (batch, elements of the input without CLS; True = present), "
                f"not {str(mask.dtype).removeprefix('torch.')} of shape {list(mask.shape)}"
            )


def known_tasks(tasks: Sequence[str] | None, of_model: Mapping[str, int]) -> tuple[str, ...]:
    """The tasks asked for, all of the model's if None; raises `UsageError` for what is no list of different known ones."""
    if tasks is None:
        return tuple(of_model)
    known = ", ".join(of_model)
    if isinstance(tasks, str) or not tasks or len(set(tasks)) < len(tasks):
        raise UsageError(f"tasks: expected a list of different task names, not {tasks!r}; this model has {known}")
    if unknown := [task for task in tasks if task not in of_model]:
        raise UsageError(f"tasks: there is no task {unknown[0]!r}; this model has {known}")
    return tuple(tasks)
