"""The processes that train together: who is who, what they tell each other, and that what fails in one ends all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from attrs import field, frozen
from torch import Tensor

from ni_framework.errors import NIError, PluginError, RunError
from ni_framework.registry.attribution import blame
from ni_framework.utils.atomic_files import said

T = TypeVar("T")


class Waiting:
    """The seconds that this process has waited for others."""

    seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - begin


class Elsewhere(NIError):
    """What has failed in another process of the team, which says so itself; `on_disk` where a file was at fault."""

    def __init__(self, message: str, exit_code: int, on_disk: bool = False) -> None:
        super().__init__(message)
        self.exit_code, self.on_disk = exit_code, on_disk


def cause(error: BaseException) -> tuple[str, int, bool]:
    """What the other processes are told of an error: its words, its exit code, and whether it is the system's of a file."""
    if problem := blame(error):
        error = PluginError([problem])
    if isinstance(error, NIError):
        return str(error).removeprefix("error: "), error.exit_code, False
    if isinstance(error, OSError):
        return f"{said(error)}; check the path, its permissions and the space left", 1, True
    return f"{type(error).__name__}: {error}", 1, False


def lost(error: BaseException) -> bool:
    """Whether an error only says that other processes could not be reached: not the first that went wrong."""
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and not isinstance(error, NIError) and any(word in str(error) for word in words)
    )


@frozen
class Team:
    """A process among `size`, which number their ranks from 0. All of them make the same calls in the same order.

    One process alone needs no process group, and nothing is sent.
    """

    rank: int = 0
    size: int = 1
    waiting: Waiting = field(factory=Waiting, eq=False)

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which alone speaks and writes what is written once."""
        return self.rank == 0

    def share(self, number: int) -> range:
        """This process's part of `number` things that are divided evenly."""
        return range(self.rank * number // self.size, (self.rank + 1) * number // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the CPU."""
        if self.size > 1:
            values = values.clone()
            with self.waiting():
                dist.all_reduce(values)
        return values

    def sums(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over all processes of tensors by name, sent as one; each process has the same names and shapes."""
        if self.size == 1 or not named:
            return dict(named)
        names = sorted(named)
        flat = torch.cat([named[name].detach().to("cpu", torch.float64).flatten() for name in names])
        parts = self.sum(flat).split([named[name].numel() for name in names])
        return {name: part.view(named[name].shape).to(named[name]) for name, part in zip(names, parts, strict=True)}

    def means(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The means over all processes of numbers by name."""
        sums = self.sums({name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()})
        return {name: sums[name].item() / self.size for name in figures} if self.size > 1 else dict(figures)

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        with self.waiting():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def gather(self, document: Any) -> list[Any]:
        """Every process's JSON document, by rank."""
        if self.size == 1:
            return [document]
        content = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        with self.waiting():
            dist.all_gather(lengths, torch.tensor(len(content)))
        longest = max(int(length) for length in lengths)
        padded = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        with self.waiting():
            dist.all_gather(padded, torch.cat([content, content.new_zeros(longest - len(content))]))
        return [json.loads(bytes(other[: int(length)].tolist())) for other, length in zip(padded, lengths, strict=True)]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Ends for all processes with an error if it fails in one; nothing is sent or waited for inside."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if self.size > 1:
                self.gather(cause(error))
            raise
        for rank, fault in enumerate(self.gather(None)):
            if fault is not None:
                message, *rest = fault
                raise Elsewhere(f"process {rank}: {message}", *rest)

    def each(self, make: Callable[[], T]) -> list[T]:
        """What every process has made, a JSON document, by rank; fails for all if one fails."""
        with self.agreed():
            made = make()
        return self.gather(made)

    def lead(self, make: Callable[[], T]) -> T:
        """What the first process has made, a JSON document, for all of them; fails for all if that fails."""
        return self.each(lambda: make() if self.leads else None)[0]  # pyright: ignore[reportReturnType]

    @contextmanager
    def leading(self, context: Callable[[], AbstractContextManager[T]]) -> Iterator[T | None]:
        """Enters a context in the first process alone, and leaves it there; fails for all if either fails."""
        with ExitStack() as stack:
            with self.agreed():
                value = stack.enter_context(context()) if self.leads else None
            yield value
            with self.agreed():
                stack.close()

    def compare(self, document: Mapping[str, Any]) -> None:
        """Raises `RunError`, naming what differs, unless all processes give the same mapping of plain values."""
        first, *others = self.gather(document)
        differences = [
            f"{key} is {_shown(first.get(key))} in process 0 and {_shown(other.get(key))} in process {rank}"
            for rank, other in enumerate(others, 1)
            for key in [*first, *(key for key in other if key not in first)]
            if first.get(key) != other.get(key)
        ]
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise RunError(f"the processes do not agree: {differences[0]}{more}; make them the same on every machine")


def _shown(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:60]}..."


ALONE = Team()
