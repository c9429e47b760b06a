"""The parameters of a model under DeepSpeed, as far as this process holds them: read, stored, and set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ni_framework.engine.pieces import Piece, State, cut
from ni_framework.engine.stored import Stored
from ni_framework.engine.team import Team
from ni_framework.engine.zero.fragments import fragments_of
from ni_framework.errors import CheckpointError, RunError

SCALARS = ("step",)  # what an optimizer remembers of a parameter as a whole


class Parameters:
    """Trained parameters as fragments, which the optimizer updates, and beside them frozen ones and buffers."""

    def __init__(self, engine: Any, stage: int, team: Team) -> None:
        self.model, self.optimizer, self.stage, self.team = engine.module, engine.optimizer, stage, team
        self.fragments = fragments_of(engine, stage, team.rank)
        if any(fragment.flat.numel() < fragment.offset + fragment.length for fragment in self.fragments):
            raise RunError(
                "engine.offload: weights on a disk cannot be stored in checkpoints yet; use `offload: cpu`, or more processes"
            )
        self.inner = engine.optimizer.optimizer if stage else engine.optimizer
        self._names: dict[str, list[str]] = {}  # all that a parameter is stored by, by the first
        first: dict[int, str] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            self._names.setdefault(first.setdefault(id(parameter), name), []).append(name)

    def views(self) -> list[Tensor]:
        """The fragments' elements themselves."""
        return [fragment.of(fragment.flat) for fragment in self.fragments]

    def leading(self, held: Mapping[str, int]) -> list[Tensor]:
        """The elements among the first `held` of their parameters."""
        return [
            fragment.of(fragment.flat)[: max(held.get(fragment.name, 0) - fragment.start, 0)]
            for fragment in self.fragments
        ]

    def copy(self) -> list[Tensor]:
        """The fragments' elements as they are now."""
        return [view.clone() for view in self.views()]

    def set(self, values: Sequence[Tensor]) -> None:
        """Gives the fragments other elements, in all processes."""
        for view, value in zip(self.views(), values, strict=True):
            view.copy_(value)
        self._refresh()

    def state(self, values: Sequence[Tensor] | None = None) -> State:
        """What this process is to store: its fragments, or `values` in their place, and what is not trained."""
        state: dict[str, Tensor | Piece] = {}
        for fragment, value in zip(self.fragments, self.views() if values is None else values, strict=True):
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
        return [stored.part(f.name, f.start, f.start + f.length).to(f.flat.device, copy=True) for f in self.fragments]

    def load(self, stored: Stored) -> None:
        """Takes over stored weights, frozen parameters and buffers too."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    continue
                if self.stage == 3:
                    piece = self._frozen(parameter)
                    piece.part_P.copy_(stored.part(name, piece.start, piece.start + len(piece.part_P)))
                else:
                    parameter.copy_(stored.read(name))
            for name, buffer in self._buffers().items():
                buffer.copy_(stored.read(name))
            for f in self.fragments:
                f.of(f.flat).copy_(stored.part(f.name, f.start, f.start + f.length))
            self._refresh()

    def optimizer_state(self) -> State:
        """What this process is to store of what the optimizer remembers, by "<kind>/<parameter>".

        DeepSpeed keeps one count of steps for many parameters; stored, each has its own.
        """
        state: dict[str, Tensor | Piece] = {}
        for fragment in self.fragments:
            for kind, value in self.inner.state.get(fragment.flat, {}).items():
                key = f"{kind}/{fragment.name}"
                if kind not in SCALARS:
                    state |= self._own(key, Piece(fragment.of(value), fragment.start, fragment.shape))
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
        for fragment in self.fragments:
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

    def _own(self, name: str, piece: Piece) -> Mapping[str, Piece]:
        """A piece by its name, if it is this process's to store: at stage 0 all have all, and share the work."""
        if self.stage == 0:
            number = torch.Size(piece.shape).numel()
            share = self.team.share(number)
            piece = cut(piece, share.start, share.stop)
        return {name: piece} if len(piece.part_P) else {}

    def _frozen(self, parameter: Any) -> Piece:
        """This process's piece of a frozen parameter at stage 3."""
        length = parameter.ds_tensor.ds_numel
        start = self.team.rank * length
        real = max(min(length, parameter.ds_numel - start), 0)
        return Piece(parameter.ds_tensor.detach().view(-1)[:real], start, tuple(parameter.ds_shape))

    def _buffers(self) -> dict[str, Tensor]:
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: value for name, value in self.model.state_dict().items() if name not in parameters}

    def _refresh(self) -> None:
        """Has the model's weights follow those that the optimizer updates."""
        if self.stage == 3:
            # What was whole is whole again after it, and nothing else: the first step fails on what DeepSpeed did not gather.
            whole = [p for p in self.optimizer.persistent_parameters if p.ds_status.name == "AVAILABLE"]
            self.optimizer._partition_all_parameters()
            for group in range(len(self.optimizer.fp16_groups)):
                self.optimizer._reassign_or_swap_out_partitioned_parameters(group)
            if whole:
                whole[0].all_gather(whole)
        elif self.stage:
            self.optimizer.update_lp_params()
