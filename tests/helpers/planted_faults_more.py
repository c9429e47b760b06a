"""More components with one fault each: in gradients, in execution, and in requirements of one kind of component."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import (
    Batch,
    Context,
    Output,
    Pairs,
)
from ni_framework.errors import OptionError
from tests.helpers.planted_faults import plant_fault
from tests.helpers.sound_components import (
    CodeShift,
    ConsecutiveNumbers,
    HalvingHalting,
    LinearHead,
    LinearTypes,
    NumberInput,
    NumberSplit,
    SoftmaxRouter,
)


@plant_fault("gradient", "its parameter spare.weight gets no gradient")
class UnusedParameter(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.spare = nn.Linear(2, 2)


@plant_fault("gradient", "the code gets no gradient")
class IgnoresCode(CodeShift):
    def prepare(self, code_UC: Tensor, num_elements: int) -> Tensor:
        return self.linear(code_UC.detach())


@plant_fault("no_open_pairs", "its parameter linear.weight gets no gradient (None) with no pair open, packed")
class ReturnsEarlyWhenClosed(CodeShift):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        if not len(pairs.compatibility):
            return pairs.dispatch(x_BVD)
        return super().forward(x_BVD, prepared, pairs)


@plant_fault("layouts", "its output differs by up to")
class MixesAcrossPairs(CodeShift):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        rows = super().forward(x_BVD, prepared, pairs)
        return rows + 0.1 * rows.ndim


@plant_fault("layouts", "it returns different losses in the dense and the packed layout")
class LayoutDependentLoss(CodeShift):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Any:
        rows = super().forward(x_BVD, prepared, pairs)
        return Output(rows, {f"loss_of_{rows.ndim}_dimensions": rows.square().mean()})


@plant_fault("layouts", "the gradient of scale, with closed pairs and without, differs by up to")
class LeaksClosedGradient(SoftmaxRouter):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        soft_BUV = super().forward(type_BVT, signature_UT, context)
        hard_BUV = torch.where(soft_BUV > 0.2, soft_BUV, 0)
        return soft_BUV + (hard_BUV - soft_BUV).detach()


@plant_fault("bf16", "its type is not finite")
class OverflowsInBf16(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) * 1e30 * 1e30 / 1e30 / 1e30


@plant_fault("fake_tensor", "raises DataDependentOutputException")
class DataDependentBranch(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) if x_BVD.sum() < 1e9 else x_BVD.new_zeros(())


@plant_fault("compile", "torch.compile cannot trace it as one graph")
class BreaksGraph(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x_BVD, context)


@plant_fault("compatibilities", "its compatibilities range from -")
class NegativeCompatibility(SoftmaxRouter):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return self.logits(type_BVT, signature_UT)


@plant_fault("compatibilities", "but it is `normalised`")
class DoubledCompatibility(SoftmaxRouter):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return 2 * super().forward(type_BVT, signature_UT, context)


@plant_fault("halts", "its probabilities are not between 0 and `remaining_BV`")
class HaltsTooMuch(HalvingHalting):
    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        return 0.5 + remaining_BV + 0 * super().forward(x_BVD, remaining_BV, context)


@plant_fault("halts", "its cost `late` is not a finite scalar")
class NonScalarCost(HalvingHalting):
    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return {"late": halt_IBV.sum(dim=0)}


@plant_fault("declared_shape", "its grid (3, 3) does not have the size of its 6 elements")
class WrongGrid(NumberInput):
    def __init__(self, config: Any, width: int) -> None:
        super().__init__(config, width)
        self.grid = 3, 3


@plant_fault("tasks", "it returns ['shape', 'colour']")
class AnswersAllTasks(LinearHead):
    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Any) -> dict[str, Tensor]:
        return {task: linear(x_BVD[:, 0]) for task, linear in self.maps.items()}


@plant_fault("tasks", "its loss of a batch of 3 has the shape []")
class MeanLoss(LinearHead):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)


@plant_fault("lazy_data", "although only its shape and tasks are needed")
class OpensEagerly(ConsecutiveNumbers):
    def __init__(self, config: Any, build: Any) -> None:
        with open("numbers.txt") as file:
            self.shape = (len(file.read()),)


@plant_fault("samples", "a batch of train draws from torch's global generator")
class DrawsSamplesGlobally(ConsecutiveNumbers):
    class split(NumberSplit):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(torch.rand(len(index_B), 4), {"a": index_B % 3})


@plant_fault("samples", "a sample of train depends on the other samples in its batch")
class BatchDependentSamples(ConsecutiveNumbers):
    class split(NumberSplit):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4) - index_B[0], {"a": index_B % 3})


@plant_fault("samples", "targets of train, a, range from 3 to 3, but it has 3 classes")
class TargetOutOfRange(ConsecutiveNumbers):
    class split(NumberSplit):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": torch.full_like(index_B, 3)})


@plant_fault("samples", "targets of train, a, have the shape [6], but it declares 3 for each of 6")
class TooFewNumbers(ConsecutiveNumbers):
    class split(NumberSplit):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": index_B.float()})


@plant_fault("samples", "targets of train, a, are not all finite")
class InfiniteTargets(ConsecutiveNumbers):
    class split(NumberSplit):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": index_B[:, None] / torch.zeros(3)})


@plant_fault("samples", "a sample of train depends on the other samples in its batch (targets a)")
class BatchDependentTargets(ConsecutiveNumbers):
    class split(NumberSplit):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": torch.arange(len(index_B)) % 3})


@plant_fault("samples", "a sample of train depends on the other samples in its batch (mask)")
class BatchDependentMask(ConsecutiveNumbers):
    class split(NumberSplit):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            present_B = torch.arange(len(index_B)) > 1
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": index_B % 3}, present_B[:, None].expand(-1, 4))


@plant_fault("masking", "its compatibility BUV differs by up to")
class ElementsCompeteInTraining(SoftmaxRouter):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        c_BUV = super().forward(type_BVT, signature_UT, context)
        return c_BUV * c_BUV.mean(dim=2, keepdim=True) if self.training else c_BUV


@plant_fault("masking", "its type BVT differs by up to")
class CentresOverElements(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD - x_BVD.mean(dim=1, keepdim=True), context)


@plant_fault("masking", "its halt BV differs by up to")
class BatchDependentHalting(HalvingHalting):
    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD - x_BVD.mean(dim=1, keepdim=True), remaining_BV, context)


@plant_fault(
    "masking", "a mask changes nothing, although inputs of masked elements influence elements that are present"
)
class IgnoresMask(NumberInput):
    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        return self.linear((inputs - inputs.mean(dim=1, keepdim=True)).unsqueeze(-1))


@plant_fault("halts", "its cost `late` is not a finite scalar: nan")
class NanCost(HalvingHalting):
    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return {"late": (halt_IBV * halt_IBV.log()).mean()}


@plant_fault("halts", "the gradient of its cost `late` is not finite where an element halts immediately or never")
class InfiniteCostGradient(HalvingHalting):
    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return {"late": halt_IBV.clamp_min(0).sqrt().mean()}


@plant_fault("stateless", "its forward changes self.seen[0] in place")
class CountsInList(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.seen = [torch.zeros(1, device="cpu")]

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.seen[0] += len(x_BVD)
        return super().forward(x_BVD, context)


@plant_fault("stateless", "its forward stores something on self.shapes['sizes'][0]")
class StoresInNestedDict(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.shapes: dict[str, list[Any]] = {"sizes": []}

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.shapes["sizes"].append(x_BVD.shape)
        return super().forward(x_BVD, context)


@plant_fault("aux_outputs", "its update_buffers stores something on self.count")
class StoresStatistics(LinearTypes):
    count: Any = None

    def forward(self, x_BVD: Tensor, context: Context) -> Output:
        return Output(super().forward(x_BVD, context), statistics={"size": x_BVD.square().sum()})

    def update_buffers(self, statistics: Any) -> None:
        self.count = statistics["size"]


@plant_fault("meta", "self.offset is a plain tensor, which does not move with the module")
class PlainTensorAttribute(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.offset = torch.linspace(0, 1, sizes.type)


@plant_fault("compatibilities", "but it is `normalised`")
class DoubleWhenMasked(SoftmaxRouter):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return super().forward(type_BVT, signature_UT, context) * (1 if context.present_BV is None else 2)


@plant_fault("tasks", "its loss of a sample changes when the target of another sample does")
class SpreadsLoss(LinearHead):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target).expand(len(target))


@plant_fault("lazy_data", "although only its shape and tasks are needed")
class ListsFiles(ConsecutiveNumbers):
    def __init__(self, config: Any, build: Any) -> None:
        super().__init__(config, build)
        os.listdir("/")


@plant_fault("lazy_data", "it opens /absent/numbers although")
class SwallowsOpenError(ConsecutiveNumbers):
    def __init__(self, config: Any, build: Any) -> None:
        super().__init__(config, build)
        with contextlib.suppress(OSError):
            os.close(os.open("/absent/numbers", os.O_RDONLY))


@plant_fault("no_open_pairs", "its parameter linear.weight gets a gradient that is not finite with no samples")
class DividesByZeroSamples(LinearTypes):
    def forward(self, x_BVD: Tensor, context: Context) -> Output:
        type_BVT = super().forward(x_BVD, context)
        zero = self.linear.weight.sum() * 0
        return Output(type_BVT, {"far": zero.square().sqrt()})


@plant_fault(
    "runs",
    "it rejects all sizes that were tried (heads: 7 cannot share 12); give sizes that it accepts: conformance(MultipleOfSeven, ",
)
class MultipleOfSeven(LinearTypes):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        if sizes.width % 7:
            raise OptionError("heads", f"7 cannot share {sizes.width}")


@plant_fault("subset_of_functions", "called with 1 of ")
class FixedNumberOfFunctions(SoftmaxRouter):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.bias = nn.Parameter(torch.empty(sizes.functions, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "bias"):
            nn.init.zeros_(self.bias)

    def logits(self, type_BVT: Tensor, signature_UT: Tensor) -> Tensor:
        if len(signature_UT) != len(self.bias):
            raise ValueError("not the number of functions that it was built for")
        return super().logits(type_BVT, signature_UT) + self.bias
