"""A script: one iteration, repeated with the same weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial, reduce
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ni_framework import recipe as recipes
from ni_framework.contracts import ComponentFactory, Context, Sizes
from ni_framework.errors import OptionError
from ni_framework.model.bodies import build_bodies
from ni_framework.model.gating import Routing, compose_routing
from ni_framework.model.iteration import (
    AuxOutputs,
    IterationLog,
    IterationOutput,
    PreparedBody,
    ScriptContext,
    add_to_sums,
)
from ni_framework.model.noise import KeyedNoise, sample_keys
from ni_framework.nn.kernel import to_unit_length
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs, is_packing_faster
from ni_framework.utils.prefixes import strip_prefix

# The components of a script that may return losses and statistics. The bodies of added functions may, too: "bodies.0".
REPORTING_COMPONENTS = ("type_inference", "router", "body", "halting")


class ScriptOutput(NamedTuple):
    """What one forward of a script returns; nothing here has rows of the registers."""

    output_BVD: Tensor
    # Means over iterations by name; the cost of halting is not divided by the number of iterations.
    losses: dict[str, Tensor]
    # Sums over iterations, by "<component>.<name>".
    statistics: dict[str, Tensor]
    # [B, U, V] of each iteration; empty without a trace.
    compatibility: list[Tensor]
    # [B, V, D] after each iteration; empty without a trace.
    state: list[Tensor]
    # With a trace and `execution: auto`: whether each iteration computed open pairs only.
    packed: list[bool]
    # With halting: the probability of halting after each iteration.
    halt_IBV: Tensor | None = None


class Script(nn.Module):
    """Type inference, router and interpreter, repeated `iterations` times: [B, V, D] -> [B, V, D].

        x_i <- x_i + sum_u c_ui (y_ui - x_i)                      pooling "delta", the default
        x_i <- (1 - m_i) x_i + m_i sum_u c_ui y_ui                pooling "gating", m_i the mean of c_ui over functions
        x_i <- sum_u c_ui y_ui                                    pooling "sum", the author's code

    With halting, the output is the mean of the states, weighted by the probabilities of halting after each iteration
    (`contracts.Halting`). Delta and sum are equal where at least one function is open (up to the eps in c). Where no function
    is open, delta keeps the element as it is, and sum sets it to zero permanently.
    Source: Neural Interpreters, section 3.2; gating: the author's code.

    Functions that growth has added are pooled with a weight of their own, which is 0 at first (`model.gating`), and may have
    another body.

    The loop over iterations is inside `forward`: sharded training gathers the weights once per script, whatever the number of
    iterations, which can be changed at any time.
    """

    def __init__(
        self,
        number: int,
        config: recipes.ScriptConfig,
        width: int,
        grid: tuple[int, int] | None,
        build: ComponentFactory,
    ) -> None:
        """Builds the script's components.

        Args:
            number: the script's position in the program; noise depends on it.
            config: the script's section of the recipe.
            width: the width D of an element.
            grid: rows and columns of the input's elements, or None if they are not on a grid.
            build: builds the components that the config names.

        Raises:
            OptionError: the router passes gradient through closed pairs and the execution is "packed", or the router
                cannot take added functions.
        """
        super().__init__()
        sizes = Sizes(width, config.num_functions, config.code, config.type, grid)
        self.number = number
        self.generations = config.generations
        self.generation_functions = [numbers for _, numbers in config.generation_ranges]
        # The tasks of each added generation; None means all tasks.
        self.tasks = [None if grown.tasks is None else frozenset(grown.tasks) for grown in config.added_functions]
        self.iterations = config.iterations
        self.pooling = config.pooling
        self.embedding = build("embedding", config.embedding, sizes, build)
        # The embedding computes each generation by a product of its own (see `_active_generations`).
        self.embedding.generations = self.generations
        self.type_inference = build("type_inference", config.type_inference, sizes, build)
        self.router = build("router", config.router, sizes, build)
        built_bodies = build_bodies(config, sizes, build)
        self.body: Any = built_bodies[0].body
        self.bodies = nn.ModuleList(built.body for built in built_bodies[1:])
        # The functions of each body, and whether its state has rows for each of them.
        self.body_functions = [(built.functions, built.has_rows_per_function) for built in built_bodies]
        self.halting = None if config.halting is None else build("halting", config.halting, sizes, build)
        self.temporary = nn.Parameter(torch.empty(config.registers, width)) if config.registers else None
        if config.added_functions and not self.router.supports_growth:
            message = f"the router, {config.router.use}, fixes how many functions an element gets, so none can be added"
            raise OptionError("added_functions", message, "use a router whose compatibilities are free, as `kernel`")
        self.gates = nn.Parameter(torch.empty(sum(self.generations[1:]))) if config.added_functions else None
        self.set_execution(config.execution, config.router.use)
        # What the backward pass computes again instead of reading it from memory.
        self.activation_checkpointing: Literal["none", "iteration", "script"] = "none"
        self.reset_parameters()

    @property
    def num_functions(self) -> int:
        """The number of all functions, including those that growth has added."""
        return sum(self.generations)

    def set_execution(self, execution: str, router: str = "") -> None:
        """Sets which pairs are computed: "dense" all, "packed" the open ones, "auto" whichever is faster.

        Raises `OptionError` for packed execution if the router passes gradient through closed pairs.
        """
        if execution == "packed" and self.router.straight_through:
            name = f"router `{router}`" if router else f"a router ({type(self.router).__name__})"
            message = f"{name} passes gradient through closed pairs, which packed execution does not compute"
            raise OptionError("execution", message, "use `execution: dense`")
        self.execution = execution

    def reset_parameters(self) -> None:
        """Sets the registers to random directions, as CLS elements, and the gates of added functions to 0."""
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
    ) -> ScriptOutput:
        """Runs all iterations.

        Args:
            x_BVD: the elements.
            present_BV: bool; where it is False, the element is masked: no function takes it, and no element attends to it.
            multiplicity_V: how many equal elements each element stands for.
            key_B: int64 keys from which noise is drawn. If None, they come from torch's generator in training, and from
                the position in the batch otherwise.
            trace: whether compatibilities, states and the chosen layout are returned.
            tasks: functions that growth has added for certain tasks take part if one of their tasks is in `tasks`, or
                if it is None.
        """
        if key_B is None:
            key_B = sample_keys(len(x_BVD), x_BVD.device, self.training)
        arguments = x_BVD, present_BV, multiplicity_V, key_B, trace, tasks
        if self.activation_checkpointing == "script" and torch.is_grad_enabled():
            return checkpoint(self._run, *arguments, use_reentrant=False)
        return self._run(*arguments)

    def _run(
        self,
        x_BVD: Tensor,
        present_BV: Tensor | None,
        multiplicity_V: Tensor | None,
        key_B: Tensor,
        trace: bool,
        tasks: Collection[str] | None,
    ) -> ScriptOutput:
        """Runs all iterations. Depends on its arguments alone, so that activation checkpointing can run it again."""
        num_registers = 0 if self.temporary is None else len(self.temporary)
        x_BVD, present_BV, multiplicity_V = self._prepend_registers(x_BVD, present_BV, multiplicity_V)
        script_context = self._prepare(x_BVD.shape[1], present_BV, multiplicity_V, key_B, tasks)
        run_iteration = self._iterate
        if self.activation_checkpointing == "iteration" and torch.is_grad_enabled():
            run_iteration = partial(checkpoint, self._iterate, use_reentrant=False)
            if self.execution != "packed":
                script_context.precompute_maps()
        log = IterationLog(keep_states=trace or self.halting is not None, keep_routing=trace)
        remaining_BV = None
        if self.halting is not None:
            remaining_BV = x_BVD.new_ones(x_BVD.shape[:2], dtype=script_context.signature_UT.dtype)
        for iteration in range(self.iterations):
            iteration_output = run_iteration(x_BVD, remaining_BV, script_context, iteration)
            log.add(iteration_output)
            x_BVD = iteration_output.state_BVD
            if remaining_BV is not None and iteration_output.halt_BV is not None:
                remaining_BV = remaining_BV - iteration_output.halt_BV
        losses = {name: total / self.iterations for name, total in log.losses.items()}
        halt_IBV = None
        if self.halting is not None:
            x_BVD, halt_IBV = self._finish_halting(log, losses, present_BV)
            halt_IBV = halt_IBV[..., num_registers:]
        return ScriptOutput(
            x_BVD[:, num_registers:],
            losses,
            log.statistics,
            [compatibility_BUV[..., num_registers:] for compatibility_BUV in log.compatibilities],
            [state_BVD[:, num_registers:] for state_BVD in log.states] if trace else [],
            log.packed if self.execution == "auto" else [],
            halt_IBV,
        )

    def _prepend_registers(
        self, x_BVD: Tensor, present_BV: Tensor | None, multiplicity_V: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns elements, presence and multiplicity with those of the registers before them.

        The registers come first because the last elements are the ones that are on a grid.
        """
        if self.temporary is None:
            return x_BVD, present_BV, multiplicity_V
        num_registers = len(self.temporary)
        x_BVD = torch.cat([self.temporary.to(x_BVD.dtype).expand(len(x_BVD), -1, -1), x_BVD], dim=1)
        present_BV = None if present_BV is None else F.pad(present_BV, (num_registers, 0), value=True)
        multiplicity_V = None if multiplicity_V is None else F.pad(multiplicity_V, (num_registers, 0), value=1)
        return x_BVD, present_BV, multiplicity_V

    def _prepare(
        self,
        num_elements: int,
        present_BV: Tensor | None,
        multiplicity_V: Tensor | None,
        key_B: Tensor,
        tasks: Collection[str] | None,
    ) -> ScriptContext:
        """Computes what all iterations share: active functions, their signatures, and what bodies make of their codes."""
        signature_UT, code_UC = self.embedding()
        signature_UT = to_unit_length(signature_UT.to(torch.promote_types(signature_UT.dtype, torch.float32)))
        active = self._active_generations(tasks)
        functions = [function for generation in active for function in self.generation_functions[generation]]
        bodies = []
        for name, body, body_functions in self._active_bodies(functions):
            body_code_UC = code_UC if body_functions is None else code_UC[body_functions]
            bodies.append(PreparedBody(name, body, body_functions, body.prepare(body_code_UC, num_elements)))
        gate_G = self.gates
        if gate_G is not None and len(functions) < len(signature_UT):
            num_initial = self.generations[0]
            signature_UT = signature_UT[functions]
            gate_G = gate_G[[function - num_initial for function in functions[num_initial:]]]
        generations = [self.generations[number] for number in active]
        return ScriptContext(signature_UT, gate_G, generations, functions, bodies, present_BV, multiplicity_V, key_B)

    def _finish_halting(
        self, log: IterationLog, losses: dict[str, Tensor], present_BV: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the mean state [B, V, D] and the halting probabilities [I, B, V]; adds the cost of halting to the losses."""
        assert self.halting is not None
        halt_IBV = torch.stack(log.halt_probabilities)
        add_to_sums(losses, self.halting.cost(halt_IBV, present_BV))
        weighted_states = [
            halt_BV.unsqueeze(-1) * state_BVD
            for halt_BV, state_BVD in zip(log.halt_probabilities, log.states, strict=True)
        ]
        return torch.stack(weighted_states).sum(dim=0), halt_IBV

    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        """Passes statistics to the components that they came from; their names are those of a `ScriptOutput`."""
        for path in (*REPORTING_COMPONENTS, *(f"bodies.{number}" for number in range(len(self.bodies)))):
            if component_statistics := strip_prefix(f"{path}.", statistics):
                component: Any = self.get_submodule(path)
                component.update_buffers(component_statistics)

    def _active_generations(self, tasks: Collection[str] | None) -> list[int]:
        """Returns the generations that take part: those of the requested tasks; None requests all tasks.

        Without gradients, generations whose gates are all 0 are skipped: they contribute exactly nothing. What is left is
        computed by products of the shapes that it had before the growth, so that the output is bit-identical: a processor
        may round a product of matrices with more rows differently. Embeddings compute all generations. One that multiplies
        its rows has an attribute `generations`, and computes each generation by a product of its own.
        """
        active = [0]
        if self.gates is None:
            return active
        gates = self.gates.split(self.generations[1:])
        for number, (gate_G, generation_tasks) in enumerate(zip(gates, self.tasks, strict=True), start=1):
            is_requested = generation_tasks is None or tasks is None or not generation_tasks.isdisjoint(tasks)
            if is_requested and (gate_G.is_meta or torch.is_grad_enabled() or bool(gate_G.any())):
                active.append(number)
        return active

    def _active_bodies(self, active_functions: list[int]) -> Iterator[tuple[str, Any, list[int] | None]]:
        """Yields each body that has active functions: its name, the body, and the functions it gets; None means all.

        A body with rows for each function gets all of its functions, and the pairs of the inactive ones are closed.
        """
        if not self.bodies and len(active_functions) == self.num_functions:
            yield "body", self.body, None
            return
        for position, (functions, has_rows_per_function) in enumerate(self.body_functions):
            name = f"bodies.{position - 1}" if position else "body"
            if active := sorted(set(functions).intersection(active_functions)):
                yield name, self.get_submodule(name), functions if has_rows_per_function else active

    def _iterate(
        self, x_BVD: Tensor, remaining_BV: Tensor | None, script_context: ScriptContext, iteration: int
    ) -> IterationOutput:
        """Runs one iteration: routing, the functions, and the new state. Depends on its arguments alone."""
        aux_outputs = AuxOutputs()
        present_BV = script_context.present_BV
        if remaining_BV is not None:
            present_BV = remaining_BV > 0 if present_BV is None else present_BV & (remaining_BV > 0)
        context = Context(iteration, present_BV, KeyedNoise(script_context.key_B, self.number, iteration))
        active_routing = self._route(x_BVD, script_context, context, aux_outputs)
        # The same among all functions of the script; the inactive ones are closed.
        routing = active_routing.scatter_to(self.num_functions, script_context.functions)
        packed = self._use_packed(active_routing.compatibility_BUV)
        pooled = []
        for name, body, functions, prepared in script_context.bodies:
            body_routing = routing if functions is None else routing.select_functions(functions)
            pool_weight_BUV = None if self.gates is None else body_routing.pool_weight_BUV
            pairs = (PackedPairs if packed else DensePairs)(
                body_routing.compatibility_BUV, script_context.multiplicity_V, pool_weight_BUV
            )
            rows = *pairs.compatibility.shape[:-1], x_BVD.shape[-1]
            extra = {"context": context} if body.takes_context else {}
            y_RD = aux_outputs.record(name, body, body(x_BVD, prepared, pairs, **extra), rows)
            pooled.append(pairs.combine(y_RD))
        state_BVD = self._update_state(x_BVD, reduce(torch.add, pooled), active_routing.pool_weight_BUV)
        # The last iteration takes all that remains.
        halt_BV = remaining_BV
        if remaining_BV is not None and self.halting is not None and iteration + 1 < self.iterations:
            halt_BV = aux_outputs.record(
                "halting", self.halting, self.halting(state_BVD, remaining_BV, context), tuple(remaining_BV.shape)
            )
        return IterationOutput(
            state_BVD, routing.pool_weight_BUV, halt_BV, aux_outputs.losses, aux_outputs.statistics, packed
        )

    def _use_packed(self, compatibility_BUV: Tensor) -> bool:
        """Whether this iteration computes open pairs only; with `auto`, whether so few are open that this is faster.

        The decision depends on the active functions alone, so that skipped ones do not change the layout of the others.
        """
        if self.execution != "auto":
            return self.execution == "packed"
        if self.router.straight_through or compatibility_BUV.is_meta:
            return False
        return is_packing_faster(compatibility_BUV)

    def _route(
        self, x_BVD: Tensor, script_context: ScriptContext, context: Context, aux_outputs: AuxOutputs
    ) -> Routing:
        """Returns compatibilities and pool weights [B, U, V] of the active functions.

        They are computed in full precision: which pairs are open must not depend on the rounding of lower precisions.
        """
        signature_UT = script_context.signature_UT
        type_shape = *x_BVD.shape[:2], signature_UT.shape[-1]
        type_BVT = aux_outputs.record(
            "type_inference", self.type_inference, self.type_inference(x_BVD, context), type_shape
        )
        # The meta device has no autocast.
        device = "cpu" if x_BVD.is_meta else x_BVD.device.type
        with torch.autocast(device, enabled=False):
            type_BVT = to_unit_length(type_BVT.to(signature_UT.dtype))
            compatibilities: list[Tensor] = []
            for number in accumulate(script_context.generations):
                is_complete = number == len(signature_UT)
                output = self.router(type_BVT, signature_UT if is_complete else signature_UT[:number], context)
                # Only the call with all functions reports losses and statistics.
                sink = aux_outputs if is_complete else AuxOutputs()
                compatibility_BUV = sink.record("router", self.router, output, (len(x_BVD), number, x_BVD.shape[1]))
                if context.present_BV is not None:
                    compatibility_BUV = torch.where(context.present_BV.unsqueeze(1), compatibility_BUV, 0)
                compatibilities.append(compatibility_BUV)
            if script_context.gate_G is None:
                return Routing(compatibilities[0], compatibilities[0])
            return compose_routing(compatibilities, script_context.gate_G, self.router.normalised)

    def _update_state(self, x_BVD: Tensor, sum_BVD: Tensor, pool_weight_BUV: Tensor) -> Tensor:
        """Returns the state after an iteration from the state before it and sum_u c_ui y_ui."""
        if self.pooling == "sum":
            return sum_BVD
        if self.pooling == "gating":
            # The mean is over the functions that the script began with, because growth must not change it.
            mean_BV1 = pool_weight_BUV.sum(dim=1).div(self.generations[0]).unsqueeze(-1)
            return torch.addcmul((1 - mean_BV1) * x_BVD, mean_BV1, sum_BVD)
        # (1 - sum_u c_ui) x_i + sum_u c_ui y_ui, which needs no difference for each function.
        return torch.addcmul(sum_BVD, 1 - pool_weight_BUV.sum(dim=1).unsqueeze(-1), x_BVD)
