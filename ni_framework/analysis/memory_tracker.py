"""Counts the bytes of live tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of tensors that are created while it is active: those that are still alive, and their peak.

    Tensors that existed before are not counted, nor is memory that an operation allocates and frees internally.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._estimate = self._peak = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        input_keys = {
            _storage_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (key := _storage_key(tensor)) not in input_keys:
                self._track(key, tensor.untyped_storage())
        return result

    @property
    def live_bytes(self) -> int:
        """The bytes that have been allocated and not freed yet."""
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        self._estimate = sum(size for _, size in self._storages.values())
        return self._estimate

    @property
    def peak_bytes(self) -> int:
        """The largest number of bytes that were alive at once, accurate to 1 %."""
        return self._peak

    def _track(self, key: int, storage: torch.UntypedStorage) -> None:
        previous = self._storages.get(key)
        if previous is not None and not previous[0].expired():
            return
        self._storages[key] = StorageWeakRef(storage), storage.nbytes()
        self._estimate += storage.nbytes() - (previous[1] if previous else 0)
        # The estimate ignores freed memory. To save time, freed memory is subtracted only if there may be a new peak.
        if self._estimate > 1.01 * self._peak:
            self._peak = max(self._peak, self.live_bytes)


def _storage_key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
