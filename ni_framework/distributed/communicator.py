"""The ranks that train together: collectives on the CPU, and errors of one rank that end all of them."""

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
from ni_framework.registry.attribution import attribute_error
from ni_framework.utils.atomic_files import format_os_error

T = TypeVar("T")


class WaitTimer:
    """The seconds that this rank has waited for others."""

    seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start


class RemoteRankError(NIError):
    """An error of another rank, which reports it itself; `is_file_error`: the operating system reported it of a file."""

    def __init__(self, message: str, exit_code: int, is_file_error: bool = False) -> None:
        super().__init__(message)
        self.exit_code, self.is_file_error = exit_code, is_file_error


def describe_error(error: BaseException) -> tuple[str, int, bool]:
    """Returns what the other ranks receive of an error: its message, its exit code, and whether it is an `OSError`."""
    if problem := attribute_error(error):
        error = PluginError([problem])
    if isinstance(error, NIError):
        return str(error).removeprefix("error: "), error.exit_code, False
    if isinstance(error, OSError):
        return f"{format_os_error(error)}; check the path, its permissions and the space left", 1, True
    return f"{type(error).__name__}: {error}", 1, False


def is_connection_error(error: BaseException) -> bool:
    """Returns whether an error only means that other ranks are unreachable, so that its cause is elsewhere.

    Not all backends raise `DistError`; the phrases identify their `RuntimeError`s.
    """
    phrases = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and not isinstance(error, NIError)
        and any(phrase in str(error) for phrase in phrases)
    )


@frozen
class Communicator:
    """Collectives for the rank of this process. All ranks must make the same calls in the same order.

    With a world size of 1 no process group is needed, and nothing is sent.
    """

    rank: int = 0
    world_size: int = 1
    wait_timer: WaitTimer = field(factory=WaitTimer, eq=False)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which alone prints and writes shared files."""
        return self.rank == 0

    def local_range(self, count: int) -> range:
        """Returns this rank's part of `count` items that are split evenly over the ranks."""
        return range(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Returns the sum over all ranks of a tensor on the CPU."""
        if self.world_size > 1:
            values = values.clone()
            with self.wait_timer():
                dist.all_reduce(values)
        return values

    def all_reduce_sum_dict(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the sums over all ranks of tensors by name, in one all-reduce; names and shapes are the same on all ranks."""
        if self.world_size == 1 or not tensors:
            return dict(tensors)
        names = sorted(tensors)
        flat = torch.cat([tensors[name].detach().to("cpu", torch.float64).flatten() for name in names])
        parts = self.all_reduce_sum(flat).split([tensors[name].numel() for name in names])
        return {name: part.view(tensors[name].shape).to(tensors[name]) for name, part in zip(names, parts, strict=True)}

    def all_reduce_mean_dict(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the means over all ranks of numbers by name."""
        sums = self.all_reduce_sum_dict(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        )
        return {name: sums[name].item() / self.world_size for name in values} if self.world_size > 1 else dict(values)

    def all_reduce_max(self, number: int) -> int:
        """Returns the largest number of all ranks."""
        if self.world_size == 1:
            return number
        value = torch.tensor(number)
        with self.wait_timer():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def all_gather_json(self, document: Any) -> list[Any]:
        """Returns the JSON documents of all ranks, by rank."""
        if self.world_size == 1:
            return [document]
        content = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.world_size)]
        with self.wait_timer():
            dist.all_gather(lengths, torch.tensor(len(content)))
        longest = max(int(length) for length in lengths)
        padded = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        with self.wait_timer():
            dist.all_gather(padded, torch.cat([content, content.new_zeros(longest - len(content))]))
        return [json.loads(bytes(other[: int(length)].tolist())) for other, length in zip(padded, lengths, strict=True)]

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Raises an error on all ranks if the block fails on one; the block must not communicate.

        The other ranks raise `RemoteRankError`.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if self.world_size > 1:
                self.all_gather_json(describe_error(error))
            raise
        for rank, fault in enumerate(self.all_gather_json(None)):
            if fault is not None:
                message, *rest = fault
                raise RemoteRankError(f"process {rank}: {message}", *rest)

    def gather_results(self, compute: Callable[[], T]) -> list[T]:
        """Returns the results of `compute`, a JSON document, of all ranks; fails on all ranks if it fails on one."""
        with self.fail_together():
            result = compute()
        return self.all_gather_json(result)

    def broadcast_from_rank_zero(self, compute: Callable[[], T]) -> T:
        """Returns the result of `compute`, a JSON document, of rank 0 on all ranks; fails on all ranks if it fails."""
        return self.gather_results(lambda: compute() if self.is_rank_zero else None)[0]  # pyright: ignore[reportReturnType]

    @contextmanager
    def rank_zero_context(self, context: Callable[[], AbstractContextManager[T]]) -> Iterator[T | None]:
        """Enters and exits a context on rank 0 alone; fails on all ranks if either fails."""
        with ExitStack() as stack:
            with self.fail_together():
                value = stack.enter_context(context()) if self.is_rank_zero else None
            yield value
            with self.fail_together():
                stack.close()

    def require_identical(self, document: Mapping[str, Any]) -> None:
        """Raises `RunError`, naming what differs, unless all ranks pass the same mapping of plain values."""
        first, *others = self.all_gather_json(document)
        differences = [
            f"{key} is {_shorten_value(first.get(key))} in process 0 and {_shorten_value(other.get(key))} in process {rank}"
            for rank, other in enumerate(others, 1)
            for key in [*first, *(key for key in other if key not in first)]
            if first.get(key) != other.get(key)
        ]
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise RunError(f"the processes do not agree: {differences[0]}{more}; make them the same on every machine")


def _shorten_value(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:60]}..."


SINGLE_PROCESS = Communicator()
