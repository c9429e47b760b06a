"""What the iterations of one forward of a script share, and what they leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ni_framework.contracts import Output
from ni_framework.model.output_check import check_output
from ni_framework.nn.mod_attention import AttentionMaps
from ni_framework.nn.modlin import Modulation


class PreparedBody(NamedTuple):
    """A body, its functions, and what its `prepare` made of their codes."""

    name: str
    body: Any
    # Numbers of the functions; None means all functions of the script.
    functions: list[int] | None
    prepared: Any


class ScriptContext(NamedTuple):
    """What all iterations of one forward share."""

    # Signatures of the active functions.
    signature_UT: Tensor
    # Gates of the active functions that growth has added; None for a script without added functions.
    gate_G: Tensor | None
    # The number of functions in each active generation.
    generations: list[int]
    # The numbers of the active functions.
    functions: list[int]
    bodies: list[PreparedBody]
    present_BV: Tensor | None
    multiplicity_V: Tensor | None
    key_B: Tensor

    def precompute_maps(self) -> None:
        """Computes what the first iteration would compute for all of them.

        With activation checkpointing, the first iteration would not pass it on to the others.
        """
        for leaf in tree_leaves([prepared_body.prepared for prepared_body in self.bodies]):
            if isinstance(leaf, Modulation | AttentionMaps):
                leaf.precompute()


class IterationOutput(NamedTuple):
    """What one iteration returns."""

    state_BVD: Tensor
    pool_weight_BUV: Tensor
    # The probability of halting after this iteration; None without halting.
    halt_BV: Tensor | None
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]
    # Whether this iteration computed open pairs only.
    packed: bool


class IterationLog:
    """What one forward keeps of its iterations: sums of losses and statistics, and the tensors that are asked for.

    Args:
        keep_states: whether the state after each iteration is kept (for halting, or for a trace).
        keep_routing: whether compatibilities and the choice of layout are kept (for a trace).
    """

    def __init__(self, keep_states: bool, keep_routing: bool) -> None:
        self.losses: dict[str, Tensor] = {}
        self.statistics: dict[str, Tensor] = {}
        self.compatibilities: list[Tensor] = []
        self.states: list[Tensor] = []
        self.packed: list[bool] = []
        self.halt_probabilities: list[Tensor] = []
        self._keep_states, self._keep_routing = keep_states, keep_routing

    def add(self, output: IterationOutput) -> None:
        """Adds what one iteration returned."""
        add_to_sums(self.losses, output.losses)
        add_to_sums(self.statistics, output.statistics)
        if output.halt_BV is not None:
            self.halt_probabilities.append(output.halt_BV)
        if self._keep_states:
            self.states.append(output.state_BVD)
        if self._keep_routing:
            self.compatibilities.append(output.pool_weight_BUV)
            self.packed.append(output.packed)


class AuxOutputs:
    """Sums of what components return beside their values: losses by name, statistics by "<component>.<name>"."""

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.statistics: dict[str, Tensor] = {}

    def record(self, path: str, component: Any, value: object, shape: tuple[int, ...]) -> Tensor:
        """Returns the value of a component's output, and adds its losses and statistics to the sums.

        Args:
            path: the component's place in the script, as "router" or "bodies.0".
            component: the component itself, which an error message names.
            value: what the component returned: a tensor or an `Output`.
            shape: the shape that the contract asks for.

        Raises:
            PluginError: the value is not a tensor of this shape, or a loss is not a scalar.
        """
        output = Output.wrap(value)
        check_output("body" if path.startswith("bodies.") else path, component, output, shape)
        return self.add(path, output)

    def add(self, path: str, output: Output) -> Any:
        """Returns the value of an output, and adds its losses and statistics to the sums."""
        add_to_sums(self.losses, output.aux_losses)
        add_to_sums(self.statistics, {f"{path}.{name}": value.detach() for name, value in output.statistics.items()})
        return output.value


def add_to_sums(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Adds values to sums of the same names, in place; a name without a sum starts at 0."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value
