"""More components with one fault each: in gradients, execution, and what one kind alone is asked for."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ni_framework.contracts import (
    Answer,
    Batch,
    Context,
    Pairs,
)
from ni_framework.errors import OptionError
from tests.helpers.planted_faults import planted
from tests.helpers.sound_components import Answers, Halves, Numbers, Pieces, Shares, Split, Steps, Types


@planted("gradient", "its parameter spare.weight gets no gradient")
class Idle(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.spare = nn.Linear(2, 2)


@planted("gradient", "the code gets no gradient")
class Deaf(Steps):
    def prepare(self, code_UC: Tensor, num_elements: int) -> Tensor:
        return self.linear(code_UC.detach())


@planted("closed", "its parameter linear.weight gets no gradient (None) with no pair open, packed")
class Returning(Steps):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        if not len(pairs.compatibility):
            return pairs.share(x_BVD)
        return super().forward(x_BVD, prepared, pairs)


@planted("layouts", "its outcome differs by up to")
class Mixing(Steps):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        rows = super().forward(x_BVD, prepared, pairs)
        return rows + 0.1 * rows.ndim


@planted("layouts", "it tells other losses in the packed layout")
class Telling(Steps):
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Any:
        rows = super().forward(x_BVD, prepared, pairs)
        return Answer(rows, {f"of_{rows.ndim}": rows.square().mean()})


@planted("layouts", "the gradient of scale, with closed pairs and without, differs by up to")
class Secret(Shares):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        soft_BUV = super().forward(type_BVT, signature_UT, context)
        hard_BUV = torch.where(soft_BUV > 0.2, soft_BUV, 0)
        return soft_BUV + (hard_BUV - soft_BUV).detach()


@planted("bf16", "its type is not finite")
class Overflowing(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) * 1e30 * 1e30 / 1e30 / 1e30


@planted("fake_tensor", "raises DataDependentOutputException")
class Branching(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD, context) if x_BVD.sum() < 1e9 else x_BVD.new_zeros(())


@planted("compile", "torch.compile cannot take it whole")
class Breaking(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x_BVD, context)


@planted("compatibilities", "its compatibilities go from -")
class Negative(Shares):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return self.logits(type_BVT, signature_UT)


@planted("compatibilities", "and it is `normalised`")
class Double(Shares):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return 2 * super().forward(type_BVT, signature_UT, context)


@planted("halts", "its probabilities do not lie between 0 and what is left")
class Greedy(Halves):
    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor:
        return 0.5 + left_BV + 0 * super().forward(x_BVD, left_BV, context)


@planted("halts", "its price `late` is no finite scalar")
class Free(Halves):
    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return {"late": halt_IBV.sum(dim=0)}


@planted("announced", "its grid (3, 3) does not hold its 6 elements")
class Gridded(Pieces):
    def __init__(self, config: Any, width: int) -> None:
        super().__init__(config, width)
        self.grid = 3, 3


@planted("tasks", "it answers ['shape', 'colour']")
class All(Answers):
    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Any) -> dict[str, Tensor]:
        return {task: linear(x_BVD[:, 0]) for task, linear in self.maps.items()}


@planted("tasks", "its loss of a batch of 3 is []")
class Mean(Answers):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)


@planted("unopened", "although only its shape and its tasks are asked for")
class Eager(Numbers):
    def __init__(self, config: Any, build: Any) -> None:
        with open("numbers.txt") as file:
            self.shape = (len(file.read()),)


@planted("samples", "a batch of train draws from torch's global generator")
class Shaken(Numbers):
    class split(Split):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(torch.rand(len(index_B), 4), {"a": index_B % 3})


@planted("samples", "a sample of train depends on which others are in its batch")
class Together(Numbers):
    class split(Split):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4) - index_B[0], {"a": index_B % 3})


@planted("samples", "targets of train, a, go from 3 to 3, and it has 3 classes")
class Beyond(Numbers):
    class split(Split):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": torch.full_like(index_B, 3)})


@planted("samples", "targets of train, a, are of shape [6], and it announces 3 for each of 6")
class TooFewNumbers(Numbers):
    class split(Split):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": index_B.float()})


@planted("samples", "targets of train, a, are not all finite")
class Infinite(Numbers):
    class split(Split):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": index_B[:, None] / torch.zeros(3)})


@planted("samples", "a sample of train depends on which others are in its batch (targets a)")
class TargetsTogether(Numbers):
    class split(Split):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": torch.arange(len(index_B)) % 3})


@planted("samples", "a sample of train depends on which others are in its batch (mask)")
class MaskTogether(Numbers):
    class split(Split):  # noqa: N801
        def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
            there_B = torch.arange(len(index_B)) > 1
            return Batch(index_B[:, None].float().expand(-1, 4), {"a": index_B % 3}, there_B[:, None].expand(-1, 4))


@planted("masked", "its compatibility BUV differs by up to")
class CompetingInTraining(Shares):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        share_BUV = super().forward(type_BVT, signature_UT, context)
        return share_BUV * share_BUV.mean(dim=2, keepdim=True) if self.training else share_BUV


@planted("masked", "its type BVT differs by up to")
class Centring(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD - x_BVD.mean(dim=1, keepdim=True), context)


@planted("masked", "its halt BV differs by up to")
class HaltingTogether(Halves):
    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor:
        return super().forward(x_BVD - x_BVD.mean(dim=1, keepdim=True), left_BV, context)


@planted("masked", "a mask changes nothing, although what belongs to masked elements reaches those that are there")
class Unmasked(Pieces):
    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        return self.linear((inputs - inputs.mean(dim=1, keepdim=True)).unsqueeze(-1))


@planted("halts", "its price `late` is no finite scalar: nan")
class Entropy(Halves):
    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return {"late": (halt_IBV * halt_IBV.log()).mean()}


@planted("halts", "the gradient of its price `late` is not finite where an element halts at once or never")
class Steep(Halves):
    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> dict[str, Tensor]:
        return {"late": halt_IBV.clamp_min(0).sqrt().mean()}


@planted("stateless", "its forward changes self.seen[0] in place")
class Tallying(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.seen = [torch.zeros(1, device="cpu")]

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.seen[0] += len(x_BVD)
        return super().forward(x_BVD, context)


@planted("stateless", "its forward stores something on self.kept['sizes'][0]")
class Nesting(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.kept: dict[str, list[Any]] = {"sizes": []}

    def forward(self, x_BVD: Tensor, context: Context) -> Tensor:
        self.kept["sizes"].append(x_BVD.shape)
        return super().forward(x_BVD, context)


@planted("told", "its absorb stores something on self.count")
class Remembering(Types):
    count: Any = None

    def forward(self, x_BVD: Tensor, context: Context) -> Answer:
        return Answer(super().forward(x_BVD, context), statistics={"size": x_BVD.square().sum()})

    def absorb(self, statistics: Any) -> None:
        self.count = statistics["size"]


@planted("meta", "self.offset is a plain tensor, which does not follow the module")
class Unattached(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        self.offset = torch.linspace(0, 1, sizes.type)


@planted("compatibilities", "and it is `normalised`")
class DoubleWhenMasked(Shares):
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor:
        return super().forward(type_BVT, signature_UT, context) * (1 if context.present_BV is None else 2)


@planted("tasks", "its loss of a sample changes when the target of another one does")
class Spreading(Answers):
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target).expand(len(target))


@planted("unopened", "although only its shape and its tasks are asked for")
class Listing(Numbers):
    def __init__(self, config: Any, build: Any) -> None:
        super().__init__(config, build)
        os.listdir("/")


@planted("unopened", "it opens /absent/numbers although")
class Swallowing(Numbers):
    def __init__(self, config: Any, build: Any) -> None:
        super().__init__(config, build)
        with contextlib.suppress(OSError):
            os.close(os.open("/absent/numbers", os.O_RDONLY))


@planted("closed", "its parameter linear.weight gets a gradient that is not finite with no samples")
class Dividing(Types):
    def forward(self, x_BVD: Tensor, context: Context) -> Answer:
        type_BVT = super().forward(x_BVD, context)
        zero = self.linear.weight.sum() * 0
        return Answer(type_BVT, {"far": zero.square().sqrt()})


@planted(
    "runs", "it refuses the sizes that are tried (heads: 7 cannot share 12); give some that fit: conformance(Sevens, "
)
class Sevens(Types):
    def __init__(self, config: Any, sizes: Any, build: Any) -> None:
        super().__init__(config, sizes, build)
        if sizes.width % 7:
            raise OptionError("heads", f"7 cannot share {sizes.width}")


@planted("grows", "asked about 1 of ")
class Biased(Shares):
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
            raise ValueError("other functions than it was built for")
        return super().logits(type_BVT, signature_UT) + self.bias
