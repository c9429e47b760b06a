"""Components that nobody should write, and that must do no harm; a plugin of one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, Build, Context, NoOptions, Pairs, Sizes, TypeInference


class Branching(Body):
    """A module for each function, which is left out where nothing here takes it."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(sizes.width, sizes.width) for _ in range(sizes.functions))

    def prepare(self, code_UC: Tensor, num_elements: int) -> None:
        return None

    def forward(self, x_BVD: Tensor, prepared: None, pairs: Pairs) -> Tensor:
        open_UBV = pairs.place(pairs.compatibility)[..., 0].transpose(0, 1)
        answers = [
            x_BVD + torch.tanh(of(x_BVD)) if bool(open_BV.any()) else x_BVD
            for of, open_BV in zip(self.maps, open_UBV, strict=True)
        ]
        return pairs.take(torch.stack(answers, dim=1))


@dataclass
class Note:
    """What DeepSpeed does not look into."""

    value: Tensor


class _Noting(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, note: Note) -> Note:
        return Note(torch.tanh(self.linear(note.value)))


class Noted(Body):
    """Modules that take and return dataclasses, and one module that two modules hold."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: Build) -> None:
        super().__init__()
        self.code = _Noting(sizes.code, sizes.width)
        self.first = _Noting(sizes.width, sizes.width)
        self.second = nn.Sequential(self.first)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Note:
        return self.code(Note(code_UC))

    def forward(self, x_BVD: Tensor, prepared: Note, pairs: Pairs) -> Tensor:
        x_RD = pairs.share(x_BVD) + pairs.spread(prepared.value)
        return x_RD + self.second(self.first(Note(x_RD))).value


class Scattered(TypeInference):
    """Parameters of every odd size: none, without a dimension, of one element, and of fewer than there are processes."""

    Config = NoOptions

    def __init__(self, config: NoOptions, sizes: Sizes, build: Build) -> None:
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
