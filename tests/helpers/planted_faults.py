"""Components with one fault each, with the check that must find it and a part of its message."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from ni_framework.contracts import (
    Context,
    Output,
    Pairs,
    TypeInference,
)
from ni_framework.options import config, option
from tests.helpers.sound_components import (
    CodeShift,
    HalvingHalting,
    LinearHead,
    LinearTypes,
    NumberInput,
    SoftmaxRouter,
)

PLANTED_FAULTS: list[tuple[str, type, str]] = []


def plant_fault(check: str, message: str) -> Any:
    """Registers a class as one that a check must fail, with a text that its message must contain."""

    def register(cls: type) -> type:
        if cls.__doc__ is None and check != "documentation":
            cls.__doc__ = "A component with a fault."
        PLANTED_FAULTS.append((check, cls, message))
        return cls

    return register


@plant_fault("documentation", "has no docstring")
class Undocumented(TypeInference):
    __init__ = LinearTypes.__init__
    forward = LinearTypes.forward


Undocumented.__doc__ = ""


@plant_fault("documentation", "its option `size` has no help text")
class UndocumentedOption(LinearTypes):
    """Has an option without a help text."""

    @config
    class Config:
        size: int = option(default=1, help=" ")


@plant_fault("yaml_round_trip", "when they are written as YAML and read again")
class ConvertedOption(LinearTypes):
    @config
    class Config:
        size: int = option(default=1, help="is doubled")

        def __attrs_post_init__(self) -> None:
            object.__setattr__(self, "size", 2 * self.size)


@plant_fault("yaml_round_trip", "the option `size` has neither a default nor an example")
class NoExample(LinearTypes):
    @config
    class Config:
        size: int = option(help="must be given")


@plant_fault("meta", "offset is on cpu although the component was built on the meta device")
class OnCpu(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.register_buffer("offset", torch.zeros(3, device="cpu"))

    def reset_parameters(self) -> None:
        pass


@plant_fault("meta", "offset is not set by reset_parameters")
class UnsetValue(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.offset = nn.Parameter(torch.empty(sizes.type))

    def reset_parameters(self) -> None:
        pass


@plant_fault("runs", "owns parameters or buffers but has no reset_parameters()")
class NoReset(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.offset = nn.Parameter(torch.zeros(sizes.type))


@plant_fault("runs", "raises RuntimeError: The size of tensor a")
class Misshapen(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) + x_BVD


@plant_fault("runs", "raises TypeError: ")
class Unbuildable(LinearTypes):
    def __init__(self, config: Any, sizes: Any) -> None:
        super().__init__(config, sizes, None)


@plant_fault("seeding", "offset has different initial values although the seed is the same")
class UnseededReset(UnsetValue):
    def reset_parameters(self) -> None:
        nn.init.constant_(self.offset, random.random())


@plant_fault("state_dict", "after its state_dict was loaded into another instance")
class NonPersistentBuffer(LinearTypes):
    offset: Tensor

    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.register_buffer("offset", torch.empty(sizes.type), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.offset)

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) + self.offset


@plant_fault("repeatable", "its forward draws from torch's global generator")
class DrawsGlobally(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) * (torch.rand(()).to(x_BVD) if self.training else 1)


@plant_fault("stateless", "its forward stores something on self.last")
class StoresOutput(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.last = x_BVD
        return super().forward(x_BVD, context)


@plant_fault("stateless", "its forward changes offset")
class CountsCalls(NonPersistentBuffer):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.offset += 1
        return super().forward(x_BVD, context)


@plant_fault("aux_outputs", "its loss `far` is not a finite scalar")
class NonScalarAuxLoss(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Output:
        return Output(super().forward(x_BVD, context), {"far": x_BVD.square().mean(dim=(1, 2))})


@plant_fault("aux_outputs", "its statistic `size` of a batch is not the sum of those of its halves")
class AveragesStatistic(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Output:
        return Output(super().forward(x_BVD, context), statistics={"size": x_BVD.square().mean()})


@plant_fault("aux_outputs", "its update_buffers changes the parameter linear.weight")
class UpdatesParameter(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Output:
        return Output(super().forward(x_BVD, context), statistics={"size": x_BVD.square().sum()})

    def update_buffers(self, statistics: Any) -> None:
        self.linear.weight.mul_(2)


@plant_fault("shapes", "its type is [3, 8], not BVT [3, 7, 8]")
class PooledType(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context).mean(dim=1)


@plant_fault("shapes", "its type is torch.float32")
class Float32Type(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context).float()


@plant_fault("batch", "when sample 0 is computed alone")
class BatchNormalised(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD - x_BVD.mean(dim=0), context)


@plant_fault("elements", "when the elements are in a different order")
class NumbersElements(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) * torch.arange(1, x_BVD.shape[1] + 1).to(x_BVD)[:, None]


@plant_fault("functions", "when the functions are in a different order")
class FavoursFirstFunction(CodeShift):
    def prepare(self, code_UC: Tensor, num_elements: int) -> Tensor:
        return self.linear(code_UC) * torch.arange(1, len(code_UC) + 1).to(code_UC)[:, None]


@plant_fault("masking", "its compatibility BUV differs by up to")
class ElementsCompete(SoftmaxRouter):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        logit_BUV = self.logits(type_BVT, signature_UT)
        return torch.softmax(logit_BUV, dim=1) * torch.softmax(logit_BUV, dim=2)


@plant_fault("masking", "when elements change that function 0 does not take")
class ReadsClosedElements(CodeShift):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        return super().forward(x_BVD, prepared, pairs) + pairs.dispatch(
            x_BVD.mean(dim=1, keepdim=True).expand_as(x_BVD)
        )


@plant_fault("masking", "its shape B differs by up to nan when masked elements change")
class AveragesMaskedElements(LinearHead):
    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Any) -> dict[str, Tensor]:
        return {task: self.maps[task](x_BVD.mean(dim=1)) for task in tasks}


@plant_fault("masking", "the gradient of linear.weight is NaN when inputs of masked elements are")
class MasksTooLate(NumberInput):
    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        x_BND = self.linear(inputs.unsqueeze(-1))
        return x_BND if mask_BN is None else torch.where(mask_BN.unsqueeze(-1), x_BND, 0)


@plant_fault("masking", "its cost `late` differs by up to")
class CountsMaskedCost(HalvingHalting):
    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return super().cost(halt_IBV, None)
