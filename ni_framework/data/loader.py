"""Loads batches in the order of the steps, in this process or in data workers, with the same contents."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ni_framework.contracts import Batch
from ni_framework.data.sampler import EpochSampler
from ni_framework.distributed.signals import ignore_stop_signals
from ni_framework.errors import NIError, PluginError, RunError
from ni_framework.registry.attribution import attribute_errors


def iter_training_batches(sampler: EpochSampler, start: int, stop: int, workers: int) -> Generator[Batch]:
    """Yields the batches of steps `start` to `stop`.

    Close the generator if it is not read to its end: the workers ignore signals, and end only when this process stops them.

    Args:
        sampler: The batch of each step.
        start: The first step.
        stop: The step after the last one.
        workers: The number of processes that prepare a few batches ahead; 0 loads in this process.

    Raises:
        RunError: A worker died.
    """
    if not workers:
        yield from (sampler[step] for step in range(start, stop))
        return
    with warnings.catch_warnings():
        # DataLoader warns of more workers than cores; their number was chosen in the recipe.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            _ErrorForwardingDataset(sampler),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            collate_fn=_identity,
            worker_init_fn=ignore_stop_signals,
            # Without it, DataLoader would draw from the global generator.
            generator=torch.Generator(),
        )
        batch_iterator = iter(loader)
    try:
        for loaded in batch_iterator:
            if isinstance(loaded, NIError):
                raise loaded
            yield loaded
    except RuntimeError as error:
        # An error of the data set itself reads "Caught ... in DataLoader worker process", without a pid.
        if "DataLoader worker (pid" not in str(error):
            raise
        raise RunError(
            "a data worker process died (perhaps out of memory); lower train.workers, 0 uses none"
        ) from error
    finally:
        # A traceback may keep the loader alive, so that its own clean-up would come too late.
        batch_iterator._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]


class _ErrorForwardingDataset(Dataset):
    """Returns errors instead of raising them, because DataLoader would replace them by a text with a traceback."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, step: int) -> Batch | NIError:
        try:
            with attribute_errors():
                return self.sampler[step]
        except (RunError, PluginError) as error:
            return error


def _identity(loaded: Any) -> Any:
    return loaded
