"""A script: one iteration, repeated with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ni_framework import recipe as recipes
from ni_framework.contracts import Answer, Build, Context, Sizes
from ni_framework.errors import OptionError
from ni_framework.model.answers import check_answer
from ni_framework.model.noise import KeyedNoise, sample_keys
from ni_framework.nn.dense import DensePairs
from ni_framework.nn.kernel import unit
from ni_framework.nn.modattention import AttentionMaps
from ni_framework.nn.modlin import Modulation
from ni_framework.nn.packed import PackedPairs, packing_pays

PARTS = ("type_inference", "router", "body", "halting")  # those that may answer with losses and statistics


class Passage(NamedTuple):
    """What one forward of a script leaves, and what it did on the way if traced; temporary elements are left out."""

    output_BVD: Tensor
    losses: dict[str, Tensor]  # mean over iterations; the price of halting as it is
    statistics: dict[str, Tensor]  # sums over iterations, by "<part>.<name>"
    compatibility: list[Tensor]  # [B, U, V] of each iteration
    state: list[Tensor]  # [B, V, D] after each iteration
    packed: list[bool]  # with `execution: auto`, whether each iteration computed open pairs only
    halt_IBV: Tensor | None = None  # with halting, the probability of it after each iteration


class Script(nn.Module):
    """Type inference, router and interpreter, repeated `iterations` times: [B, V, D] -> [B, V, D].

        x_i <- x_i + sum_u c_ui (y_ui - x_i)                      pooling "delta", the default
        x_i <- (1 - m_i) x_i + m_i sum_u c_ui y_ui                pooling "gating", m_i the mean of c_ui over functions
        x_i <- sum_u c_ui y_ui                                    pooling "sum", the author's code

    With halting, what comes out is the mean of the states by the probabilities of halting after each (`contracts.Halting`).
    Delta and sum are equal where some function is open (up to the eps in c); where none is, delta leaves the element as it
    is and sum makes it zero for ever. Source: Neural Interpreters, section 3.2; gating: the author's code.

    The loop stands in `forward`, and nothing above calls an iteration: sharded training gathers the weights once per
    script, whatever the number of iterations, which can be changed at any time.

    Raises `OptionError` for a router whose closed pairs pass gradient, which packed execution would lose.
    """

    def __init__(
        self, number: int, script: recipes.Script, width: int, grid: tuple[int, int] | None, build: Build
    ) -> None:
        super().__init__()
        sizes = Sizes(width, script.functions, script.code, script.type, grid)
        self.number = number  # of the program; noise depends on it
        self.iterations = script.iterations
        self.pooling = script.pooling
        self.embedding = build("embedding", script.embedding, sizes, build)
        self.type_inference = build("type_inference", script.type_inference, sizes, build)
        self.router = build("router", script.router, sizes, build)
        self.body = build("body", script.body, sizes, build)
        self.halting = None if script.halting is None else build("halting", script.halting, sizes, build)
        self.temporary = nn.Parameter(torch.empty(script.temporary, width)) if script.temporary else None
        self.set_execution(script.execution, script.router.use)
        self.recompute: Literal["none", "iteration", "script"] = "none"  # what the way back forms again
        self.reset_parameters()

    def set_execution(self, execution: str, router: str = "") -> None:
        """Which pairs are computed from now on: "dense" all, "packed" the open ones, "auto" whichever is faster.

        Raises `OptionError` for packed execution of a router whose closed pairs pass gradient.
        """
        if execution == "packed" and self.router.gradient_through_closed:
            name = f"router `{router}`" if router else f"a router ({type(self.router).__name__})"
            message = f"{name} passes gradient through closed pairs, which packed execution leaves out"
            raise OptionError("execution", message, "use `execution: dense`")
        self.execution = execution

    def reset_parameters(self) -> None:
        """Temporary elements start like CLS elements, each in a direction of its own."""
        if self.temporary is not None:
            nn.init.normal_(self.temporary)

    def forward(
        self,
        x_BVD: Tensor,
        present_BV: Tensor | None = None,
        multiplicity_V: Tensor | None = None,
        key_B: Tensor | None = None,
        trace: bool = False,
    ) -> Passage:
        """Runs all iterations. Elements where `present_BV` is False are masked: no function takes them, nobody sees them.

        `multiplicity_V` says how many equal elements each element stands for. Noise draws from `key_B`; without it, keys come
        from torch's generator in training and from the place in the batch otherwise.
        """
        if key_B is None:
            key_B = sample_keys(len(x_BVD), x_BVD.device, self.training)
        given = x_BVD, present_BV, multiplicity_V, key_B, trace
        if self.recompute == "script" and torch.is_grad_enabled():
            return checkpoint(self._run, *given, use_reentrant=False)
        return self._run(*given)

    def _run(
        self,
        x_BVD: Tensor,
        present_BV: Tensor | None,
        multiplicity_V: Tensor | None,
        key_B: Tensor,
        trace: bool,
    ) -> Passage:
        """All iterations; a function of its arguments alone, so that it can be carried out again."""
        lead = 0
        if self.temporary is not None:  # in front, since the last elements are the ones that lie on a grid
            lead = len(self.temporary)
            x_BVD = torch.cat([self.temporary.to(x_BVD.dtype).expand(len(x_BVD), -1, -1), x_BVD], dim=1)
            present_BV = None if present_BV is None else F.pad(present_BV, (lead, 0), value=True)
            multiplicity_V = None if multiplicity_V is None else F.pad(multiplicity_V, (lead, 0), value=1)
        signature_UT, code_UC = self.embedding()
        signature_UT = unit(signature_UT.to(torch.promote_types(signature_UT.dtype, torch.float32)))
        prepared = self.body.prepare(code_UC, x_BVD.shape[1])
        forms = _Forms(signature_UT, prepared, present_BV, multiplicity_V, key_B)
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        compatibilities, states, packed, halts = [], [], [], []
        left_BV = None if self.halting is None else x_BVD.new_ones(x_BVD.shape[:2], dtype=signature_UT.dtype)
        again = self.recompute == "iteration" and torch.is_grad_enabled()
        if again and self.execution != "packed":  # or the first iteration would keep what the others find
            for part in tree_leaves(prepared):
                if isinstance(part, Modulation | AttentionMaps):
                    part.form()
        for iteration in range(self.iterations):
            if again:
                done = checkpoint(self._iterate, x_BVD, left_BV, forms, iteration, use_reentrant=False)
            else:
                done = self._iterate(x_BVD, left_BV, forms, iteration)
            x_BVD = done.state_BVD
            if left_BV is not None and done.halt_BV is not None:
                left_BV = left_BV - done.halt_BV
                halts.append(done.halt_BV)
            _add(losses, done.losses)
            _add(statistics, done.statistics)
            if trace or halts:
                states.append(x_BVD)
            if trace:
                compatibilities.append(done.compatibility_BUV[..., lead:])
                packed += [done.packed] if self.execution == "auto" else []
        losses = {name: total / self.iterations for name, total in losses.items()}
        halt_IBV = None
        if self.halting is not None:
            halt_IBV = torch.stack(halts)
            _add(losses, self.halting.price(halt_IBV, present_BV))
            x_BVD = torch.stack([halt.unsqueeze(-1) * x for halt, x in zip(halts, states, strict=True)]).sum(dim=0)
            halt_IBV = halt_IBV[..., lead:]
        states = [state_BVD[:, lead:] for state_BVD in states] if trace else []
        return Passage(x_BVD[:, lead:], losses, statistics, compatibilities, states, packed, halt_IBV)

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        """Hands statistics to the parts they came from; their names are those of a passage."""
        for part in PARTS:
            own = {
                name.removeprefix(f"{part}."): value
                for name, value in statistics.items()
                if name.startswith(f"{part}.")
            }
            if own:
                getattr(self, part).absorb(own)

    def _iterate(self, x_BVD: Tensor, left_BV: Tensor | None, forms: _Forms, iteration: int) -> _Iteration:
        """One iteration: routing, the functions, and the state that they leave. A function of its arguments alone."""
        told = _Told()
        present_BV = forms.present_BV
        if left_BV is not None:
            present_BV = left_BV > 0 if present_BV is None else present_BV & (left_BV > 0)
        context = Context(iteration, present_BV, KeyedNoise(forms.key_B, self.number, iteration))
        compatibility_BUV = self._route(x_BVD, forms.signature_UT, context, told)
        packed = self._packs(compatibility_BUV)
        pairs = (PackedPairs if packed else DensePairs)(compatibility_BUV, forms.multiplicity_V)
        rows = *pairs.compatibility.shape[:-1], x_BVD.shape[-1]
        y_RD = told.by("body", self.body, self.body(x_BVD, forms.prepared, pairs), rows)
        state_BVD = self._pool(x_BVD, pairs.pool(y_RD), compatibility_BUV)
        halt_BV = left_BV
        if left_BV is not None and self.halting is not None and iteration + 1 < self.iterations:
            halt_BV = told.by("halting", self.halting, self.halting(state_BVD, left_BV, context), tuple(left_BV.shape))
        return _Iteration(state_BVD, compatibility_BUV, halt_BV, told.losses, told.statistics, packed)

    def _packs(self, compatibility_BUV: Tensor) -> bool:
        """Whether this iteration computes open pairs only; with `auto`, whether so few are open that this is faster."""
        if self.execution != "auto":
            return self.execution == "packed"
        if self.router.gradient_through_closed or compatibility_BUV.is_meta:
            return False
        return packing_pays(compatibility_BUV)

    def _route(self, x_BVD: Tensor, signature_UT: Tensor, context: Context, told: _Told) -> Tensor:
        """Compatibilities [B, U, V], in full precision: which pairs are open must not hang on a rounding."""
        types = *x_BVD.shape[:2], signature_UT.shape[-1]
        type_BVT = told.by("type_inference", self.type_inference, self.type_inference(x_BVD, context), types)
        device = "cpu" if x_BVD.is_meta else x_BVD.device.type  # the meta device has no autocast
        with torch.autocast(device, enabled=False):
            type_BVT = unit(type_BVT.to(signature_UT.dtype))
            answer = self.router(type_BVT, signature_UT, context)
            pairs = len(x_BVD), len(signature_UT), x_BVD.shape[1]
            compatibility_BUV = told.by("router", self.router, answer, pairs)
            if context.present_BV is not None:
                compatibility_BUV = torch.where(context.present_BV.unsqueeze(1), compatibility_BUV, 0)
        return compatibility_BUV

    def _pool(self, x_BVD: Tensor, sum_BVD: Tensor, compatibility_BUV: Tensor) -> Tensor:
        """The state after an iteration from the state before it and sum_u c_ui y_ui."""
        if self.pooling == "sum":
            return sum_BVD
        if self.pooling == "gating":
            mean_BV1 = compatibility_BUV.mean(dim=1).unsqueeze(-1)
            return torch.addcmul((1 - mean_BV1) * x_BVD, mean_BV1, sum_BVD)
        # (1 - sum_u c_ui) x_i + sum_u c_ui y_ui, which forms no difference per function.
        return torch.addcmul(sum_BVD, 1 - compatibility_BUV.sum(dim=1).unsqueeze(-1), x_BVD)


class _Forms(NamedTuple):
    """What all iterations of one forward share."""

    signature_UT: Tensor
    prepared: Any  # of the body
    present_BV: Tensor | None
    multiplicity_V: Tensor | None
    key_B: Tensor


class _Iteration(NamedTuple):
    """What one iteration leaves."""

    state_BVD: Tensor
    compatibility_BUV: Tensor
    halt_BV: Tensor | None
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]
    packed: bool


class _Told:
    """Sums of what components tell beside their results: losses by name, statistics by part and name."""

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.statistics: dict[str, Tensor] = {}

    def by(self, part: str, component: Any, value: object, shape: tuple[int, ...]) -> Tensor:
        """The result in a component's answer; the rest is kept. Raises `PluginError` for what is no answer of this shape."""
        answer = Answer.of(value)
        check_answer(part, component, answer, shape)
        _add(self.losses, answer.losses)
        _add(self.statistics, {f"{part}.{name}": value.detach() for name, value in answer.statistics.items()})
        return answer.result


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value
