"""Components that nobody should write, but that must work all the same; a single-file plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, ComponentFactory, Context, NoOptions, Pairs, Sizes, TypeInference


class Branching(Body):
    """A module for each function, which is not called if the function is closed for all elements of this rank."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(sizes.width, sizes.width) for _ in range(sizes.functions))

    def prepare(self, code_UC: Tensor, num_elements: int) -> None:
        return None

    def forward(self, x_BVD: Tensor, prepared: None, pairs: Pairs) -> Tensor:
        open_UBV = pairs.to_dense(pairs.compatibility)[..., 0].transpose(0, 1)
        outputs = [
            x_BVD + torch.tanh(function_map(x_BVD)) if bool(open_BV.any()) else x_BVD
            for function_map, open_BV in zip(self.maps, open_UBV, strict=True)
        ]
        return pairs.from_dense(torch.stack(outputs, dim=1))


@dataclass
class Note:
    """A dataclass, whose tensors DeepSpeed does not find."""

    value: Tensor


class _NoteLinear(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, note: Note) -> Note:
        return Note(torch.tanh(self.linear(note.value)))


class Noted(Body):
    """Modules that take and return dataclasses, and one module that is a submodule of two."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.code = _NoteLinear(sizes.code, sizes.width)
        self.first = _NoteLinear(sizes.width, sizes.width)
        self.second = nn.Sequential(self.first)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Note:
        return self.code(Note(code_UC))

    def forward(self, x_BVD: Tensor, prepared: Note, pairs: Pairs) -> Tensor:
        x_RD = pairs.dispatch(x_BVD) + pairs.expand(prepared.value)
        return x_RD + self.second(self.first(Note(x_RD))).value


class Scattered(TypeInference):
    """Parameters of unusual sizes: no element, a scalar, one element, and fewer elements than there are ranks."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        self.linear = nn.Linear(sizes.width, sizes.type)
        self.nothing = nn.Parameter(torch.empty(0, sizes.type))
        self.gain = nn.Parameter(torch.empty(()))
        self.shift = nn.Parameter(torch.empty(1))
        self.three = nn.Parameter(torch.empty(3, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for number, parameter in enumerate(self.parameters(recurse=False)):
            nn.init.constant_(parameter, 0.5 + number / 10)

    def forward(self, x_BVD: Tensor, context: Context) -> Any:
        type_BVT = self.gain * self.linear(x_BVD) + self.shift + self.nothing.sum()
        return torch.cat([type_BVT[..., :1] * self.three.sum(), type_BVT[..., 1:]], dim=-1)
