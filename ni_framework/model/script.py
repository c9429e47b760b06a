"""A script: one iteration, repeated with the same weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ni_framework import recipe as recipes
from ni_framework.contracts import Answer, Build, Context, Sizes
from ni_framework.errors import OptionError
from ni_framework.model.gating import Routed, composed, functions_of_bodies
from ni_framework.model.noise import KeyedNoise, sample_keys
from ni_framework.model.output_check import check_answer
from ni_framework.nn.kernel import unit
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs, packing_pays
from ni_framework.nn.mod_attention import AttentionMaps
from ni_framework.nn.modlin import Modulation

# Those that may answer with losses and statistics, as bodies that growth has brought may too: "bodies.0".
PARTS = ("type_inference", "router", "body", "halting")


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

    Functions that growth has added take part by a share of their own, which is 0 at first (`model.shares`), and may have
    another body.

    The loop stands in `forward`, and nothing above calls an iteration: sharded training gathers the weights once per
    script, whatever the number of iterations, which can be changed at any time.

    Raises `OptionError` for a router whose closed pairs pass gradient, which packed execution would lose.
    """

    def __init__(
        self, number: int, script: recipes.Script, width: int, grid: tuple[int, int] | None, build: Build
    ) -> None:
        super().__init__()
        sizes = Sizes(width, script.num_functions, script.code, script.type, grid)
        self.number = number  # of the program; noise depends on it
        self.generations = script.generations  # how many functions it began with, and how many each growth has added
        self.tasks = [None if grown.tasks is None else frozenset(grown.tasks) for grown in script.grown]
        self.members = [numbers for _, numbers in script.members]  # the functions of each generation
        self.iterations = script.iterations
        self.pooling = script.pooling
        self.embedding = build("embedding", script.embedding, sizes, build)
        self.type_inference = build("type_inference", script.type_inference, sizes, build)
        self.router = build("router", script.router, sizes, build)
        own, *others = functions_of_bodies(script)
        self.body = build("body", script.body, evolve(sizes, functions=len(own)), build)
        self.bodies = nn.ModuleList(
            build("body", body, evolve(sizes, functions=len(functions)), build)
            for body, functions in zip((grown.body for grown in script.grown if grown.body), others, strict=True)
        )
        holding = zip((self.body, *self.bodies), (own, *others), strict=True)
        self.functions_of_bodies = [
            (functions, any(of.ndim and len(of) == len(functions) for of in body.state_dict().values()))
            for body, functions in holding
        ]  # and whether a body may hold something for each: told now, for later its tensors may lie elsewhere
        self.halting = None if script.halting is None else build("halting", script.halting, sizes, build)
        self.temporary = nn.Parameter(torch.empty(script.temporary, width)) if script.temporary else None
        if script.grown and not self.router.grows:
            message = f"the router, {script.router.use}, fixes how many functions an element gets, so none can be added"
            raise OptionError("grown", message, "use a router whose compatibilities are free, as `kernel`")
        self.gates = (
            nn.Parameter(torch.empty(sum(self.generations[1:]))) if script.grown else None
        )  # of added functions
        self.set_execution(script.execution, script.router.use)
        self.recompute: Literal["none", "iteration", "script"] = "none"  # what the way back forms again
        self.reset_parameters()

    @property
    def num_functions(self) -> int:
        """All of its functions, those that growth has added too."""
        return sum(self.generations)

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
        """Temporary elements start like CLS elements, each in a direction of its own; the gates of added functions shut."""
        if self.temporary is not None:
            nn.init.normal_(self.temporary)
        if self.gates is not None:
            nn.init.zeros_(self.gates)

    def forward(
        self,
        x_BVD: Tensor,
        present_BV: Tensor | None = None,
        multiplicity_V: Tensor | None = None,
        key_B: Tensor | None = None,
        trace: bool = False,
        tasks: Collection[str] | None = None,
    ) -> Passage:
        """Runs all iterations. Elements where `present_BV` is False are masked: no function takes them, nobody sees them.

        `multiplicity_V` says how many equal elements each element stands for. Noise draws from `key_B`; without it, keys come
        from torch's generator in training and from the place in the batch otherwise. Functions that growth has added for
        certain tasks take part where one of these is among `tasks`, or where that is None.
        """
        if key_B is None:
            key_B = sample_keys(len(x_BVD), x_BVD.device, self.training)
        given = x_BVD, present_BV, multiplicity_V, key_B, trace, tasks
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
        tasks: Collection[str] | None,
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
        awake = self._awake(tasks)
        functions = [function for generation in awake for function in self.members[generation]]
        bodies = []
        for name, body, own in self._bodies(functions):
            prepared = body.prepare(code_UC if own is None else code_UC[own], x_BVD.shape[1])
            bodies.append(_Prepared(name, body, own, prepared))
        gate_G = self.gates
        if gate_G is not None and len(functions) < len(signature_UT):
            signature_UT = signature_UT[functions]
            gate_G = gate_G[[function - self.generations[0] for function in functions[self.generations[0] :]]]
        generations = [self.generations[number] for number in awake]
        forms = _Forms(signature_UT, gate_G, generations, functions, bodies, present_BV, multiplicity_V, key_B)
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        compatibilities, states, packed, halts = [], [], [], []
        left_BV = None if self.halting is None else x_BVD.new_ones(x_BVD.shape[:2], dtype=signature_UT.dtype)
        again = self.recompute == "iteration" and torch.is_grad_enabled()
        if again and self.execution != "packed":  # or the first iteration would keep what the others find
            for part in tree_leaves([of.prepared for of in bodies]):
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
                compatibilities.append(done.share_BUV[..., lead:])
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
        for part in (*PARTS, *(f"bodies.{number}" for number in range(len(self.bodies)))):
            own = {
                name.removeprefix(f"{part}."): value
                for name, value in statistics.items()
                if name.startswith(f"{part}.")
            }
            if own:
                component: Any = self.get_submodule(part)
                component.absorb(own)

    def _awake(self, tasks: Collection[str] | None) -> list[int]:
        """The generations that take part: those of the tasks that are asked for, None being all.

        Without gradients, generations whose gates are all 0 are left out: they would change nothing but a rounding.
        """
        awake = [0]
        if self.gates is None:
            return awake
        gates = self.gates.split(self.generations[1:])
        for number, (gate_G, own) in enumerate(zip(gates, self.tasks, strict=True), start=1):
            asked = own is None or tasks is None or not own.isdisjoint(tasks)
            if asked and (gate_G.is_meta or torch.is_grad_enabled() or bool(gate_G.any())):
                awake.append(number)
        return awake

    def _bodies(self, awake: list[int]) -> Iterator[tuple[str, Any, list[int] | None]]:
        """Each body that has functions among those awake, with its name and its functions; None: all.

        One that holds something for each function gets all of its own, and their pairs are closed.
        """
        if not self.bodies and len(awake) == self.num_functions:
            yield "body", self.body, None
            return
        for place, (functions, of_each) in enumerate(self.functions_of_bodies):
            name = f"bodies.{place - 1}" if place else "body"
            if here := sorted(set(functions).intersection(awake)):
                yield name, self.get_submodule(name), functions if of_each else here

    def _iterate(self, x_BVD: Tensor, left_BV: Tensor | None, forms: _Forms, iteration: int) -> _Iteration:
        """One iteration: routing, the functions, and the state that they leave. A function of its arguments alone."""
        told = _Told()
        present_BV = forms.present_BV
        if left_BV is not None:
            present_BV = left_BV > 0 if present_BV is None else present_BV & (left_BV > 0)
        context = Context(iteration, present_BV, KeyedNoise(forms.key_B, self.number, iteration))
        awake = self._route(x_BVD, forms, context, told)
        routed = awake.among(self.num_functions, forms.functions)
        packed = self._packs(routed.compatibility_BUV)
        pooled = []
        for name, body, functions, prepared in forms.bodies:
            of = routed if functions is None else routed.of(functions)
            share_BUV = None if self.gates is None else of.share_BUV
            pairs = (PackedPairs if packed else DensePairs)(of.compatibility_BUV, forms.multiplicity_V, share_BUV)
            rows = *pairs.compatibility.shape[:-1], x_BVD.shape[-1]
            y_RD = told.by(name, body, body(x_BVD, prepared, pairs), rows)
            pooled.append(pairs.pool(y_RD))
        state_BVD = self._pool(x_BVD, reduce(torch.add, pooled), awake.share_BUV)
        halt_BV = left_BV
        if left_BV is not None and self.halting is not None and iteration + 1 < self.iterations:
            halt_BV = told.by("halting", self.halting, self.halting(state_BVD, left_BV, context), tuple(left_BV.shape))
        return _Iteration(state_BVD, routed.share_BUV, halt_BV, told.losses, told.statistics, packed)

    def _packs(self, compatibility_BUV: Tensor) -> bool:
        """Whether this iteration computes open pairs only; with `auto`, whether so few are open that this is faster."""
        if self.execution != "auto":
            return self.execution == "packed"
        if self.router.gradient_through_closed or compatibility_BUV.is_meta:
            return False
        return packing_pays(compatibility_BUV)

    def _route(self, x_BVD: Tensor, forms: _Forms, context: Context, told: _Told) -> Routed:
        """Compatibilities [B, U, V], in full precision: which pairs are open must not hang on a rounding."""
        signature_UT = forms.signature_UT
        types = *x_BVD.shape[:2], signature_UT.shape[-1]
        type_BVT = told.by("type_inference", self.type_inference, self.type_inference(x_BVD, context), types)
        device = "cpu" if x_BVD.is_meta else x_BVD.device.type  # the meta device has no autocast
        with torch.autocast(device, enabled=False):
            type_BVT = unit(type_BVT.to(signature_UT.dtype))
            found: list[Tensor] = []
            for number in accumulate(forms.generations):
                whole = number == len(signature_UT)
                answer = self.router(type_BVT, signature_UT if whole else signature_UT[:number], context)
                heard = told if whole else _Told()
                compatibility_BUV = heard.by("router", self.router, answer, (len(x_BVD), number, x_BVD.shape[1]))
                if context.present_BV is not None:
                    compatibility_BUV = torch.where(context.present_BV.unsqueeze(1), compatibility_BUV, 0)
                found.append(compatibility_BUV)
            if forms.gate_G is None:
                return Routed(found[0], found[0])
            return composed(found, forms.gate_G, self.router.normalised)

    def _pool(self, x_BVD: Tensor, sum_BVD: Tensor, share_BUV: Tensor) -> Tensor:
        """The state after an iteration from the state before it and sum_u c_ui y_ui."""
        if self.pooling == "sum":
            return sum_BVD
        if self.pooling == "gating":
            mean_BV1 = share_BUV.sum(dim=1).div(self.generations[0]).unsqueeze(-1)  # growth must not move it
            return torch.addcmul((1 - mean_BV1) * x_BVD, mean_BV1, sum_BVD)
        # (1 - sum_u c_ui) x_i + sum_u c_ui y_ui, which forms no difference per function.
        return torch.addcmul(sum_BVD, 1 - share_BUV.sum(dim=1).unsqueeze(-1), x_BVD)


class _Prepared(NamedTuple):
    """A body, its functions, and what depends on their codes alone."""

    name: str
    body: Any
    functions: list[int] | None  # None: all
    prepared: Any


class _Forms(NamedTuple):
    """What all iterations of one forward share."""

    signature_UT: Tensor  # of the functions that are awake
    gate_G: Tensor | None  # of those among them that growth has added
    generations: list[int]  # how many of them each has
    functions: list[int]
    bodies: list[_Prepared]
    present_BV: Tensor | None
    multiplicity_V: Tensor | None
    key_B: Tensor


class _Iteration(NamedTuple):
    """What one iteration leaves."""

    state_BVD: Tensor
    share_BUV: Tensor
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
        check_answer("body" if part.startswith("bodies.") else part, component, answer, shape)
        _add(self.losses, answer.losses)
        _add(self.statistics, {f"{part}.{name}": value.detach() for name, value in answer.statistics.items()})
        return answer.result


def _add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value
