"""The parameters of a model under DeepSpeed, as far as this process holds them: read, stored, and set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ni_framework.checkpoint.reader import Stored
from ni_framework.checkpoint.shards import Piece, State, cut
from ni_framework.distributed.communicator import Team
from ni_framework.engines.deepspeed.fragments import Fragment, fragments_of
from ni_framework.engines.deepspeed.nvme import kept
from ni_framework.engines.deepspeed.nvme_swap import group_in_memory, part_in_memory
from ni_framework.errors import CheckpointError

SCALARS = ("step",)  # what an optimizer remembers of a parameter as a whole


class Parameters:
    """Trained parameters as fragments, which the optimizer updates, and beside them frozen ones and buffers.

    Those on a disk are in memory one group at a time; copies of them go to files in `disk`, a folder there.
    """

    def __init__(self, engine: Any, stage: int, team: Team, disk: str | None = None) -> None:
        self.model, self.optimizer, self.stage, self.team = engine.module, engine.optimizer, stage, team
        self.fragments, self._disk = fragments_of(engine, stage, team.rank), disk
        self.inner = engine.optimizer.optimizer if stage else engine.optimizer
        self._idle: State = {}  # what an optimizer remembered of parameters that are not trained now
        self._names: dict[str, list[str]] = {}  # all that a parameter is stored by, by the first
        first: dict[int, str] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            self._names.setdefault(first.setdefault(id(parameter), name), []).append(name)

    def present(self) -> Iterator[Tensor]:
        """The elements of each fragment, in memory until the next are asked for."""
        for fragment in self._present():
            yield fragment.of(fragment.flat)

    def leading(self, held: Mapping[str, int]) -> list[Tensor]:
        """The elements among the first `held` of their parameters."""
        return [
            fragment.of(fragment.flat)[: max(held.get(fragment.name, 0) - fragment.start, 0)]
            for fragment in self.fragments
        ]

    def copy(self) -> list[Tensor]:
        """The fragments' elements as they are now."""
        return [self._copied(elements) for elements in self.present()]

    def set(self, values: Sequence[Tensor]) -> None:
        """Gives the fragments other elements, in all processes."""
        with self._changing() as fragments:
            for fragment, value in zip(fragments, values, strict=True):
                fragment.of(fragment.flat).copy_(value)

    def state(self, values: Sequence[Tensor] | None = None) -> State:
        """What this process is to store: its fragments, or `values` in their place, and what is not trained."""
        state: dict[str, Tensor | Piece] = {}
        given = map(self._lasting, self.present()) if values is None else values
        for value, fragment in zip(given, self.fragments, strict=True):
            state |= self._own(fragment.name, Piece(value, fragment.start, fragment.shape))
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                continue
            if self.stage == 3:
                state |= self._own(name, self._frozen(parameter))
            elif self.team.leads:
                state[name] = parameter.detach()
        state |= {other: state[name] for name, all in self._names.items() for other in all[1:] if name in state}
        if self.team.leads:
            state |= self._buffers()
        return state

    def wanted(self) -> dict[str, Tensor]:
        """Tensors without values, of the shapes and types of all that is stored."""
        shapes = {
            name: torch.empty(getattr(parameter, "ds_shape", parameter.shape), dtype=parameter.dtype, device="meta")
            for name, parameter in self.model.named_parameters(remove_duplicate=False)
        }
        return shapes | self._buffers()

    def read(self, stored: Stored) -> list[Tensor]:
        """The fragments' elements among stored weights."""
        parts = ((f, stored.part(f.name, f.start, f.start + f.length)) for f in self.fragments)
        return [self._copied(part.to(fragment.flat.device)) for fragment, part in parts]

    def load(self, stored: Stored) -> None:
        """Takes over stored weights, frozen parameters and buffers too."""
        with torch.no_grad(), self._changing() as fragments:
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    continue
                if self.stage == 3:
                    with part_in_memory(parameter, changes=True) as part_P:
                        start, real = self._own_part(parameter)
                        part_P[:real].copy_(stored.part(name, start, start + real))
                else:
                    parameter.copy_(stored.read(name))
            for name, buffer in self._buffers().items():
                buffer.copy_(stored.read(name))
            for f in fragments:
                f.of(f.flat).copy_(stored.part(f.name, f.start, f.start + f.length))

    def optimizer_state(self) -> State:
        """What this process is to store of what the optimizer remembers, by "<kind>/<parameter>".

        DeepSpeed keeps one count of steps for many parameters; stored, each has its own.
        """
        state: dict[str, Tensor | Piece] = dict(self._idle)
        for fragment in self._present():
            for kind, value in self.inner.state.get(fragment.flat, {}).items():
                key = f"{kind}/{fragment.name}"
                if kind not in SCALARS:
                    state |= self._own(key, Piece(self._lasting(fragment.of(value)), fragment.start, fragment.shape))
                elif fragment.start == 0 and (self.stage or self.team.leads):
                    state[key] = value.clone()
        return state

    def load_optimizer_state(self, stored: Stored) -> None:
        """Takes over what `optimizer_state` returned in any number of processes; parameters that it lacks start afresh.

        Raises `CheckpointError` for what belongs to no parameter, or does not fit it.
        """
        shapes = {name: list(tensor.shape) for name, tensor in self.wanted().items()}
        kinds = set()
        for key in stored:
            kind, _, name = key.partition("/")
            kinds.add(kind)
            if name not in shapes or stored.shape(key) != ([] if kind in SCALARS else shapes[name]):
                raise CheckpointError(
                    f"{key}: of shape {stored.shape(key)} is no state of this model; use another checkpoint"
                )
        self._idle = dict(self._remembered(stored))
        for fragment in self._present(changes=True):
            for kind in sorted(kinds):
                key, flat = f"{kind}/{fragment.name}", fragment.flat
                if key not in stored:
                    continue
                state = self.inner.state[flat]
                if kind in SCALARS:
                    state[kind] = stored.read(key).to(flat.device, copy=True)
                    continue
                if kind not in state:
                    state[kind] = torch.zeros_like(flat)
                part = stored.part(key, fragment.start, fragment.start + fragment.length)
                fragment.of(state[kind]).copy_(part)

    def _remembered(self, stored: Stored) -> Iterator[tuple[str, Tensor | Piece]]:
        """This process's share of what is remembered of parameters that are not trained now: they may be trained again."""
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        for key in stored:
            kind, _, name = key.partition("/")
            if name not in frozen:
                continue
            if kind not in SCALARS:
                shape = tuple(stored.shape(key))
                share = self.team.share(torch.Size(shape).numel())
                if len(share):
                    yield key, Piece(stored.part(key, share.start, share.stop).clone(), share.start, shape)
            elif self.team.leads:
                yield key, stored.read(key)

    def _own(self, name: str, piece: Piece) -> Mapping[str, Piece]:
        """A piece by its name, if it is this process's to store: at stage 0 all have all, and share the work."""
        if self.stage == 0:
            number = torch.Size(piece.shape).numel()
            share = self.team.share(number)
            piece = cut(piece, share.start, share.stop)
        return {name: piece} if len(piece.part_P) else {}

    def _frozen(self, parameter: Any) -> Piece:
        """This process's piece of a frozen parameter at stage 3."""
        start, real = self._own_part(parameter)
        with part_in_memory(parameter, changes=False) as part_P:
            return Piece(self._lasting(part_P[:real]), start, tuple(parameter.ds_shape))

    def _own_part(self, parameter: Any) -> tuple[int, int]:
        """Where this process's part of a parameter begins at stage 3, and how many elements it has without padding."""
        length = parameter.ds_tensor.ds_numel
        start = self.team.rank * length
        return start, max(min(length, parameter.ds_numel - start), 0)

    def _buffers(self) -> dict[str, Tensor]:
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: value for name, value in self.model.state_dict().items() if name not in parameters}

    def _present(self, changes: bool = False, weights: bool = False) -> Iterator[Fragment]:
        """The fragments, in memory until the next is asked for; written back if `changes`, and to the model if `weights`."""
        if self.stage < 3:
            yield from self.fragments
            return
        for number, flat in enumerate(self.optimizer.fp32_partitioned_groups_flat):
            with group_in_memory(self.optimizer, number, changes):
                yield from (fragment for fragment in self.fragments if fragment.flat is flat)
                if weights:
                    self.optimizer._reassign_or_swap_out_partitioned_parameters(number)

    @contextmanager
    def _changing(self) -> Iterator[Iterator[Fragment]]:
        """The fragments, to be given other elements in all processes; the model follows what the optimizer updates.

        What was whole is whole again after it, and nothing else: DeepSpeed fails in the first step on what it did not gather.
        """
        if self.stage < 3:
            yield self._present()
            if self.stage:
                self.optimizer.update_lp_params()
            return
        whole = [p for p in self.optimizer.persistent_parameters if p.ds_status.name == "AVAILABLE"]
        self.optimizer._partition_all_parameters()
        yield self._present(changes=True, weights=True)
        if whole:
            whole[0].all_gather(whole)

    def _copied(self, elements: Tensor) -> Tensor:
        return elements.clone() if self._disk is None else kept(elements, self._disk)

    def _lasting(self, elements: Tensor) -> Tensor:
        """Elements that stay when the next ones come to memory."""
        return elements if self._disk is None else kept(elements, self._disk)
