"""How many bytes a piece of work holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is entered: those still alive, and the most there were at once.

    What there was before is not counted, nor is what an operation takes and frees within itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._estimate = self._peak = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (key := _key(tensor)) not in given:
                self._add(key, tensor.untyped_storage())
        return result

    @property
    def live(self) -> int:
        """Bytes made and not freed yet."""
        self._storages = {key: of for key, of in self._storages.items() if not of[0].expired()}
        self._estimate = sum(size for _, size in self._storages.values())
        return self._estimate

    @property
    def peak(self) -> int:
        """The most bytes alive at once, to one part in a hundred."""
        return self._peak

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        known = self._storages.get(key)
        if known is not None and not known[0].expired():
            return
        self._storages[key] = StorageWeakRef(storage), storage.nbytes()
        self._estimate += storage.nbytes() - (known[1] if known else 0)
        if self._estimate > 1.01 * self._peak:  # what was freed meanwhile is looked for only where it matters
            self._peak = max(self._peak, self.live)


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
