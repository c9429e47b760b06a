"""Components without faults, which the components with planted faults are derived from."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import (
    Batch,
    Body,
    Context,
    Data,
    Halting,
    Head,
    Input,
    Output,
    Pairs,
    Router,
    TypeInference,
)
from ni_framework.errors import OptionError


class LinearTypes(TypeInference):
    """A linear map."""

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(sizes.width, sizes.type)

    def forward(self, x_BVD: Tensor, context: Context) -> Any:
        return self.linear(x_BVD)


class CodeShift(Body):
    """Adds a linear map of the code to every element."""

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(sizes.code, sizes.width)

    def prepare(self, code_UC: Tensor, num_elements: int) -> Any:
        return self.linear(code_UC)

    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Any:
        return pairs.dispatch(x_BVD) + pairs.expand(prepared)


class SoftmaxRouter(Router):
    """A softmax over functions."""

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)

    def logits(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        return self.scale * torch.einsum("ut,bvt->buv", signature_UT, type_BVT)

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Any:
        return torch.softmax(self.logits(type_BVT, signature_UT), dim=1)


class NumberInput(Input):
    """Makes each number an element."""

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.shape, self.num_elements, self.grid = (6,), 6, (3, 2)
        self.linear = nn.Linear(1, width)

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        inputs = inputs if mask_BN is None else torch.where(mask_BN, inputs, 0)
        return self.linear(inputs.unsqueeze(-1))


class LinearHead(Head):
    """A linear map for each task."""

    def __init__(self, config: Any, width: int, tasks: Any) -> None:
        super().__init__()
        self.names = list(tasks)
        self.cls = nn.Parameter(torch.empty(len(tasks), width))
        self.maps = nn.ModuleDict({task: nn.Linear(width, classes) for task, classes in tasks.items()})

        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.cls)

    def cls_tokens(self, tasks: Any) -> tuple[Tensor, int]:
        return self.cls[[self.names.index(task) for task in tasks]], 1

    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Any) -> dict[str, Tensor]:
        return {task: self.maps[task](x_BVD[:, index]) for index, task in enumerate(tasks)}

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, reduction="none")

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"loss": self.loss(logits, target)}


class HalvingHalting(Halting):
    """About half of the remaining probability, depending on the state."""

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(sizes.width, 1)

    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        return remaining_BV * torch.sigmoid(self.linear(x_BVD)).squeeze(-1)

    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        late_BV = (torch.arange(len(halt_IBV))[:, None, None] * halt_IBV).sum(dim=0)
        present_BV = torch.ones_like(late_BV, dtype=torch.bool) if present_BV is None else present_BV
        return {"late": torch.where(present_BV, late_BV, 0).sum() / present_BV.sum().clamp_min(1)}


class NumberSplit:
    def __len__(self) -> int:
        return 40

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return Batch(index_B[:, None].float().expand(-1, 4), {"a": index_B % 3})


class ConsecutiveNumbers(Data):
    """Consecutive numbers."""

    split: Any = NumberSplit

    def __init__(self, config: Any, build: Any) -> None:
        self.shape, self.tasks = (4,), {"a": 3}

    def open(self) -> Any:
        return {"train": self.split(), "test": self.split()}


class RestrictedWidth(CodeShift):
    """Rejects the default width, and small grids."""

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        if sizes.width % 16:
            raise OptionError("heads", f"16 heads cannot share {sizes.width}")
        if sizes.grid is None or min(sizes.grid) < 4:
            raise OptionError("", "it needs a grid of at least 4 by 4")


class TokenInput(NumberInput):
    """Looks up numbers in a table, so that inputs have no gradient."""

    def __init__(self, config: Any, width: int) -> None:
        super().__init__(config, width)
        self.table = nn.Embedding(50, width)
        del self.linear

    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        inputs = inputs if mask_BN is None else torch.where(mask_BN, inputs, 0)
        return self.table(inputs.long().clamp(0, 49))


class HiddenLayerRouter(Router):
    """A softmax after a hidden layer whose width is the number of functions in most checks."""

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(sizes.type, 11), nn.Linear(11, sizes.type)

    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        type_BVT = self.second(torch.tanh(self.first(type_BVT)))
        return torch.softmax(torch.einsum("ut,bvt->buv", signature_UT, type_BVT), dim=1)


class PenalisedTypes(LinearTypes):
    """Returns a loss that depends on its weights alone, and has an option that is declared with attrs instead of `option`."""

    @attrs.frozen
    class Config:
        size: int = attrs.field(default=1, metadata={"help": "not used"})

    def forward(self, x_BVD: Tensor, context: Context) -> Output:
        return Output(super().forward(x_BVD, context), {"weights": self.linear.weight.square().mean()})


SOUND_COMPONENTS = (
    LinearTypes,
    CodeShift,
    SoftmaxRouter,
    NumberInput,
    LinearHead,
    HalvingHalting,
    ConsecutiveNumbers,
    RestrictedWidth,
    TokenInput,
    HiddenLayerRouter,
    PenalisedTypes,
)
