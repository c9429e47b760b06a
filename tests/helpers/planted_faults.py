"""Components with one fault each: by the check that must find it, and what is said."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.contracts import (
    Answer,
    Context,
    Pairs,
    TypeInference,
)
from ni_framework.options import config, option
from tests.helpers.sound_components import Answers, Halves, Pieces, Shares, Steps, Types

PLANTED: list[tuple[str, type, str]] = []


def planted(check: str, said: str) -> Any:
    """Registers a class as one that a check must refuse with these words in its message."""

    def register(cls: type) -> type:
        if cls.__doc__ is None and check != "documented":
            cls.__doc__ = "A component with a fault."
        PLANTED.append((check, cls, said))
        return cls

    return register


@planted("documented", "has no docstring")
class Silent(TypeInference):
    __init__ = Types.__init__
    forward = Types.forward


Silent.__doc__ = ""


@planted("documented", "its option `size` has no help text")
class SilentOption(Types):
    """Has an option that nobody explains."""

    @config
    class Config:
        size: int = option(default=1, help=" ")


@planted("yaml", "when written as YAML and read again")
class Converting(Types):
    @config
    class Config:
        size: int = option(default=1, help="is doubled")

        def __attrs_post_init__(self) -> None:
            object.__setattr__(self, "size", 2 * self.size)


@planted("yaml", "the option `size` has neither a default nor an example")
class NoExample(Types):
    @config
    class Config:
        size: int = option(help="must be given")


@planted("meta", "offset is on cpu although the component was built on the meta device")
class Placed(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.register_buffer("offset", torch.zeros(3, device="cpu"))

    def reset_parameters(self) -> None:
        pass


@planted("meta", "offset is not set by reset_parameters")
class Unset(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.offset = nn.Parameter(torch.empty(sizes.type))

    def reset_parameters(self) -> None:
        pass


@planted("runs", "owns parameters or buffers but has no reset_parameters()")
class NoReset(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.offset = nn.Parameter(torch.zeros(sizes.type))


@planted("runs", "raises RuntimeError: The size of tensor a")
class Misshapen(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) + x_BVD


@planted("runs", "raises TypeError: ")
class Unbuildable(Types):
    def __init__(self, config: Any, sizes: Any) -> None:
        super().__init__(config, sizes, None)


@planted("seeded", "offset begins with other values although the seed is the same")
class Moody(Unset):
    def reset_parameters(self) -> None:
        nn.init.constant_(self.offset, random.random())


@planted("state_dict", "after its state_dict was loaded into another instance")
class Forgetful(Types):
    offset: Tensor

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.register_buffer("offset", torch.empty(sizes.type), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.offset)

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) + self.offset


@planted("repeatable", "its forward draws from torch's global generator")
class Drawing(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) * (torch.rand(()).to(x_BVD) if self.training else 1)


@planted("stateless", "its forward stores something on self.last")
class Keeping(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.last = x_BVD
        return super().forward(x_BVD, context)


@planted("stateless", "its forward changes offset")
class Counting(Forgetful):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.offset += 1
        return super().forward(x_BVD, context)


@planted("told", "its loss `far` is no finite scalar")
class Lossy(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Answer:
        return Answer(super().forward(x_BVD, context), {"far": x_BVD.square().mean(dim=(1, 2))})


@planted("told", "its statistic `size` of a batch is not the sum of those of its halves")
class Averaging(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Answer:
        return Answer(super().forward(x_BVD, context), statistics={"size": x_BVD.square().mean()})


@planted("told", "its absorb changes the parameter linear.weight")
class Absorbing(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Answer:
        return Answer(super().forward(x_BVD, context), statistics={"size": x_BVD.square().sum()})

    def absorb(self, statistics: Any) -> None:
        self.linear.weight.mul_(2)


@planted("shapes", "its type is [3, 8], not BVT [3, 7, 8]")
class Pooling(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context).mean(dim=1)


@planted("shapes", "its type is torch.float32")
class Single(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context).float()


@planted("batch", "when sample 0 is asked about alone")
class Normalising(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD - x_BVD.mean(dim=0), context)


@planted("elements", "when the elements come in another order")
class Numbering(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) * torch.arange(1, x_BVD.shape[1] + 1).to(x_BVD)[:, None]


@planted("functions", "when the functions come in another order")
class Favouring(Steps):
    def prepare(self, code_UC: Tensor, num_elements: int) -> Tensor:
        return self.linear(code_UC) * torch.arange(1, len(code_UC) + 1).to(code_UC)[:, None]


@planted("masked", "its compatibility BUV differs by up to")
class Competing(Shares):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        logit_BUV = self.logits(type_BVT, signature_UT)
        return torch.softmax(logit_BUV, dim=1) * torch.softmax(logit_BUV, dim=2)


@planted("masked", "when elements change that function 0 does not take")
class Looking(Steps):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        return super().forward(x_BVD, prepared, pairs) + pairs.share(x_BVD.mean(dim=1, keepdim=True).expand_as(x_BVD))


@planted("masked", "its shape B differs by up to nan when masked elements change")
class Averages(Answers):
    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Any) -> dict[str, Tensor]:
        return {task: self.maps[task](x_BVD.mean(dim=1)) for task in tasks}


@planted("masked", "the gradient of linear.weight is NaN when inputs of masked elements are")
class Late(Pieces):
    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        x_BND = self.linear(inputs.unsqueeze(-1))
        return x_BND if mask_BN is None else torch.where(mask_BN.unsqueeze(-1), x_BND, 0)


@planted("masked", "its price `late` differs by up to")
class Pricing(Halves):
    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return super().price(halt_IBV, None)
