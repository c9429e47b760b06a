"""Reads, stores and sets this rank's shards of a model that DeepSpeed trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ni_framework.checkpoint.reader import TensorReader
from ni_framework.checkpoint.shards import ShardedState, TensorShard, intersect
from ni_framework.distributed.communicator import Communicator
from ni_framework.engines.deepspeed.fragments import Fragment, find_fragments
from ni_framework.engines.deepspeed.nvme_offload.folder import copy_to_mmap
from ni_framework.engines.deepspeed.nvme_offload.swap import group_in_memory, shard_in_memory
from ni_framework.errors import CheckpointError

# Kinds of optimizer state that have one number for a whole parameter.
SCALAR_STATE = ("step",)


class ShardedParameters:
    """This rank's shards of a model: fragments of trained parameters, which the optimizer updates, frozen ones and buffers.

    Fragments on a disk are in memory one group at a time.
    """

    def __init__(self, engine: Any, stage: int, comm: Communicator, swap_path: str | None = None) -> None:
        """Finds the shards of an initialised engine.

        Args:
            engine: DeepSpeed's engine.
            stage: The stage of ZeRO, 0 to 3.
            comm: The ranks.
            swap_path: A folder on the disk that holds the fragments, to which copies of them are written too; None if
                they are in memory.
        """
        self.model, self.optimizer, self.stage, self.comm = engine.module, engine.optimizer, stage, comm
        self.fragments, self._swap_path = find_fragments(engine, stage, comm.rank), swap_path
        self.base_optimizer = engine.optimizer.optimizer if stage else engine.optimizer
        # A stored optimizer state of parameters that are frozen now.
        self._frozen_optimizer_state: ShardedState = {}
        # All names of each parameter, by its first name; every one of them is a key in a checkpoint.
        self._aliases: dict[str, list[str]] = {}
        first_names: dict[int, str] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            self._aliases.setdefault(first_names.setdefault(id(parameter), name), []).append(name)

    def local_values(self) -> Iterator[Tensor]:
        """Yields the elements of each fragment, which are in memory until the next ones are requested."""
        for fragment in self._fragments_in_memory():
            yield fragment.view_in(fragment.flat)

    def frozen_views(self, frozen_prefix_sizes: Mapping[str, int]) -> list[Tensor]:
        """Returns views of the frozen elements of the fragments: the first ones of their parameters, by size."""
        return [
            fragment.view_in(fragment.flat)[: max(frozen_prefix_sizes.get(fragment.name, 0) - fragment.start, 0)]
            for fragment in self.fragments
        ]

    def copy(self) -> list[Tensor]:
        """Returns copies of the fragments' elements."""
        return [self._copy_values(elements) for elements in self.local_values()]

    def set_values(self, values: Sequence[Tensor]) -> None:
        """Sets the fragments' elements; all ranks call this."""
        with self._writable_fragments() as fragments:
            for fragment, value in zip(fragments, values, strict=True):
                fragment.view_in(fragment.flat).copy_(value)

    def state(self, values: Sequence[Tensor] | None = None) -> ShardedState:
        """Returns what this rank stores: its fragments, or `values` in their place, frozen parameters and buffers."""
        state: dict[str, Tensor | TensorShard] = {}
        source_values = map(self._persist_values, self.local_values()) if values is None else values
        for value, fragment in zip(source_values, self.fragments, strict=True):
            state |= self._shard_to_store(fragment.name, TensorShard(value, fragment.start, fragment.shape))
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                continue
            if self.stage == 3:
                state |= self._shard_to_store(name, self._frozen_shard(parameter))
            elif self.comm.is_rank_zero:
                state[name] = parameter.detach()
        state |= {other: state[name] for name, names in self._aliases.items() for other in names[1:] if name in state}
        if self.comm.is_rank_zero:
            state |= self._buffers()
        return state

    def expected_state(self) -> dict[str, Tensor]:
        """Returns meta tensors with the full shapes and dtypes of all weights and buffers."""
        shapes = {
            name: torch.empty(getattr(parameter, "ds_shape", parameter.shape), dtype=parameter.dtype, device="meta")
            for name, parameter in self.model.named_parameters(remove_duplicate=False)
        }
        return shapes | self._buffers()

    def read_values(self, stored: TensorReader) -> list[Tensor]:
        """Returns the fragments' elements from stored weights, on their device."""
        shards = ((f, stored.read_range(f.name, f.start, f.start + f.length)) for f in self.fragments)
        return [self._copy_values(values_P.to(fragment.flat.device)) for fragment, values_P in shards]

    def load(self, stored: TensorReader) -> None:
        """Loads stored weights, including frozen parameters and buffers."""
        with torch.no_grad(), self._writable_fragments() as fragments:
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    continue
                if self.stage == 3:
                    with shard_in_memory(parameter, write_back=True) as local_P:
                        start, unpadded = self._local_extent(parameter)
                        local_P[:unpadded].copy_(stored.read_range(name, start, start + unpadded))
                else:
                    parameter.copy_(stored.read(name))
            for name, buffer in self._buffers().items():
                buffer.copy_(stored.read(name))
            for f in fragments:
                f.view_in(f.flat).copy_(stored.read_range(f.name, f.start, f.start + f.length))

    def optimizer_state(self) -> ShardedState:
        """Returns the optimizer state that this rank stores, by "<kind>/<parameter>".

        DeepSpeed has one step count for many parameters; in a checkpoint each parameter has its own.
        """
        state: dict[str, Tensor | TensorShard] = dict(self._frozen_optimizer_state)
        for fragment in self._fragments_in_memory():
            for kind, value in self.base_optimizer.state.get(fragment.flat, {}).items():
                key = f"{kind}/{fragment.name}"
                if kind not in SCALAR_STATE:
                    state |= self._shard_to_store(
                        key, TensorShard(self._persist_values(fragment.view_in(value)), fragment.start, fragment.shape)
                    )
                elif fragment.start == 0 and (self.stage or self.comm.is_rank_zero):
                    state[key] = value.clone()
        return state

    def load_optimizer_state(self, stored: TensorReader) -> None:
        """Loads what `optimizer_state` returned, whatever the number of ranks; parameters without an entry start without one.

        Raises `CheckpointError` for an entry that belongs to no parameter, or does not fit it.
        """
        shapes = {name: list(tensor.shape) for name, tensor in self.expected_state().items()}
        kinds = set()
        for key in stored:
            kind, _, name = key.partition("/")
            kinds.add(kind)
            if name not in shapes or stored.shape(key) != ([] if kind in SCALAR_STATE else shapes[name]):
                message = f"{key}: an optimizer state of shape {stored.shape(key)} does not fit this model"
                raise CheckpointError(f"{message}; use another checkpoint")
        self._frozen_optimizer_state = dict(self._read_frozen_optimizer_state(stored))
        for fragment in self._fragments_in_memory(write_back=True):
            for kind in sorted(kinds):
                key, flat = f"{kind}/{fragment.name}", fragment.flat
                if key not in stored:
                    continue
                state = self.base_optimizer.state[flat]
                if kind in SCALAR_STATE:
                    state[kind] = stored.read(key).to(flat.device, copy=True)
                    continue
                if kind not in state:
                    state[kind] = torch.zeros_like(flat)
                stored_values = stored.read_range(key, fragment.start, fragment.start + fragment.length)
                fragment.view_in(state[kind]).copy_(stored_values)

    def _read_frozen_optimizer_state(self, stored: TensorReader) -> Iterator[tuple[str, Tensor | TensorShard]]:
        """Yields this rank's shard of the optimizer state of frozen parameters: a later run may train them again."""
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        for key in stored:
            kind, _, name = key.partition("/")
            if name not in frozen:
                continue
            if kind not in SCALAR_STATE:
                shape = tuple(stored.shape(key))
                local_range = self.comm.local_range(torch.Size(shape).numel())
                if len(local_range):
                    yield (
                        key,
                        TensorShard(
                            stored.read_range(key, local_range.start, local_range.stop).clone(),
                            local_range.start,
                            shape,
                        ),
                    )
            elif self.comm.is_rank_zero:
                yield key, stored.read(key)

    def _shard_to_store(self, name: str, shard: TensorShard) -> Mapping[str, TensorShard]:
        """Returns what this rank stores of a shard, by name: at stage 0 every rank has all of it and stores a range."""
        if self.stage == 0:
            local_range = self.comm.local_range(torch.Size(shard.shape).numel())
            shard = intersect(shard, local_range.start, local_range.stop)
        return {name: shard} if len(shard.values_P) else {}

    def _frozen_shard(self, parameter: Any) -> TensorShard:
        """Returns this rank's shard of a frozen parameter at stage 3."""
        start, unpadded = self._local_extent(parameter)
        with shard_in_memory(parameter, write_back=False) as local_P:
            return TensorShard(self._persist_values(local_P[:unpadded]), start, tuple(parameter.ds_shape))

    def _local_extent(self, parameter: Any) -> tuple[int, int]:
        """Returns where this rank's shard of a parameter starts at stage 3, and its number of elements without padding."""
        length = parameter.ds_tensor.ds_numel
        start = self.comm.rank * length
        return start, max(min(length, parameter.ds_numel - start), 0)

    def _buffers(self) -> dict[str, Tensor]:
        """Returns the model's buffers that are stored, by name."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: value for name, value in self.model.state_dict().items() if name not in parameters}

    def _fragments_in_memory(self, write_back: bool = False, update_model: bool = False) -> Iterator[Fragment]:
        """Yields the fragments, which are in memory until the next one is requested.

        Args:
            write_back: Whether they are written to the disk afterwards.
            update_model: Whether the model's weights are set to them afterwards, at stage 3.
        """
        if self.stage < 3:
            yield from self.fragments
            return
        for number, flat in enumerate(self.optimizer.fp32_partitioned_groups_flat):
            with group_in_memory(self.optimizer, number, write_back):
                yield from (fragment for fragment in self.fragments if fragment.flat is flat)
                if update_model:
                    self.optimizer._reassign_or_swap_out_partitioned_parameters(number)

    @contextmanager
    def _writable_fragments(self) -> Iterator[Iterator[Fragment]]:
        """Yields the fragments, whose elements may be changed on all ranks; the model's weights are set to them afterwards.

        Parameters that were gathered before are gathered again afterwards, and no others: DeepSpeed fails in the next step on
        parameters that it has not gathered itself.
        """
        if self.stage < 3:
            yield self._fragments_in_memory()
            if self.stage:
                self.optimizer.update_lp_params()
            return
        gathered = [p for p in self.optimizer.persistent_parameters if p.ds_status.name == "AVAILABLE"]
        self.optimizer._partition_all_parameters()
        yield self._fragments_in_memory(write_back=True, update_model=True)
        if gathered:
            gathered[0].all_gather(gathered)

    def _copy_values(self, elements: Tensor) -> Tensor:
        """Returns a copy, which is in a file if the fragments are on a disk."""
        return elements.clone() if self._swap_path is None else copy_to_mmap(elements, self._swap_path)

    def _persist_values(self, elements: Tensor) -> Tensor:
        """Returns the elements, copied to a file if they would not stay in memory with the next ones."""
        return elements if self._swap_path is None else copy_to_mmap(elements, self._swap_path)
