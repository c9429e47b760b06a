"""Batches in the order of their steps, prepared by this process or by others; their contents are the same."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ni_framework.contracts import Batch
from ni_framework.data.sampler import Order
from ni_framework.distributed.signals import ignore_all
from ni_framework.errors import NIError, PluginError, RunError
from ni_framework.registry.attribution import blamed


def batches(order: Order, start: int, stop: int, workers: int) -> Generator[Batch]:
    """The batches of steps `start` to `stop`; with `workers` processes a few of them are prepared ahead.

    Close it if it is not read to its end: the workers leave signals to this process, and end only when they are told to.
    Raises `RunError` if a worker dies.
    """
    if not workers:
        yield from (order[step] for step in range(start, stop))
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores: the recipe says so
        loader = DataLoader(
            _Carried(order),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=ignore_all,
            generator=torch.Generator(),  # torch draws from the global one otherwise
        )
        prepared = iter(loader)
    try:
        for loaded in prepared:
            if isinstance(loaded, NIError):
                raise loaded
            yield loaded
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(
            error
        ):  # an error of the data set's own comes as "Caught ... in DataLoader worker"
            raise
        raise RunError(
            "a process that prepares batches has died (out of memory, perhaps); lower train.workers, 0 uses none"
        ) from error
    finally:
        prepared._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]  a traceback may keep the loader alive


class _Carried(Dataset):
    """An order whose errors reach the main process as they are, not as a text with a traceback in it."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __getitem__(self, step: int) -> Batch | NIError:
        try:
            with blamed():
                return self.order[step]
        except (RunError, PluginError) as error:
            return error


def _as_it_is(loaded: Any) -> Any:
    return loaded
