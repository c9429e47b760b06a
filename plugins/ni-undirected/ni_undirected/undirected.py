"""A body whose functions minimise an energy, one unit after the other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ni_framework.contracts import Body, ComponentFactory, Pairs, Sizes
from ni_framework.errors import OptionError
from ni_framework.nn.modlin import Modulation
from ni_framework.options import config, option
from ni_undirected.attention_update import mean_value, update_attention
from ni_undirected.tied_map import TiedMap, apply_transposed

UpdateOrder = Literal["forward", "hidden_first", "backward"]
UPDATE_ORDERS = {
    "forward": ("attention", "hidden", "output"),
    "hidden_first": ("hidden", "attention", "output"),
    "backward": ("output", "hidden", "attention"),
}


class Undirected(Body):
    """x_i + c_i y_i, with y_i from coordinate descent on an energy of attention w, hidden unit h, output y: [B, V, D] -> [R, D].

    Each pair of function u and element i has its own units and its own energy (z = LN(x); sums over heads are omitted):

        E(w, h, y; x) = sum_j w_j log(w_j / c_j) - sum_j w_j q_i . k_j / sqrt(K)          w_j >= 0, sum_j w_j = 1
                        + f   (Psi(h) - <h, W z_i + b> - <h, A a>)                        a = sum_j w_j v_j, heads concatenated
                        + f^2 (|y|^2 / 2 - <y, G h> - <y, P a + d>)                       f = `feedback`

    with Psi(h) = sum ((1 + h) log(1 + h) + (1 - h) log(1 - h)) / 2, and q, k, v, W z observed. For fixed other units, each unit
    has a unique exact minimiser: the gradient of the conjugate of its own term (entropy, Psi, |y|^2 / 2) at the messages of the
    others,

        w = softmax_j(log c_j + q_i . k_j / sqrt(K) + v_j . (f A^T h + f^2 P^T y))
        h = tanh(W z_i + b + A a + f G^T y)
        y = G h + P a + d

    so no update increases E. E is bounded below because w and h are bounded, so more sweeps approach a stationary point. At the
    start h = y = 0 and w = c / sum c, the minimiser of its own term. All maps are modulated by the code; A, G and P are used in
    both directions. One sweep in the order `forward` is a feed-forward layer: attention, then hidden units, then a linear map.

    Source: Mihaylova, Niculae, Martins, "Modeling Structure with Undirected Neural Networks", ICML 2022. There f is 1, and keys
    and values are units too. Here elements are observed, so that each element has its own energy, and closed pairs are in no
    energy. y is added to the state times c, as in a line of code (Neural Interpreters, equations 6 and 7).
    """

    api = 2

    @config
    class Config:
        order: UpdateOrder = option(
            default="forward",
            help="order of the updates in a sweep: attention, hidden, output (forward), hidden, attention, output "
            "(hidden_first), or output, hidden, attention (backward)",
        )
        sweeps: int = option(default=2, ge=1, help="number of updates of each unit; more cost time, but no parameters")
        feedback: float = option(
            default=0.1,
            gt=0,
            le=1,
            help="weight of a unit's energy relative to that of the unit before it: near 0 units receive little from later "
            "units, at 1 they receive as much from both sides, which is hard to train with more than one sweep",
        )
        heads: int = option(default=4, ge=1, help="attention heads, H")
        key: int = option(default=16, ge=1, help="width of a query and a key in each head, K")
        hidden: int | None = option(
            default=None, ge=1, help="number of hidden units of an element; null takes the width of an element"
        )

    def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
        super().__init__()
        width, code, hidden = sizes.width, sizes.code, config.hidden or sizes.width
        if width % config.heads:
            divisor = max(number for number in range(1, min(config.heads, width) + 1) if width % number == 0)
            raise OptionError(
                "heads",
                f"{config.heads} heads cannot share a width of {width}",
                f"choose a number of heads that divides model.width, as {divisor} does",
            )
        if config.order == "backward" and config.sweeps == 1:
            raise OptionError(
                "sweeps",
                "one sweep backward updates the output before the hidden units and attention, which would then not be used",
                "use `sweeps: 2` or more, or `order: forward`",
            )
        self.heads, self.feedback = config.heads, config.feedback
        self.updates = list(UPDATE_ORDERS[config.order] * config.sweeps)
        # Updates after the last one of the output would not be used.
        while self.updates[-1] != "output":
            self.updates.pop()
        self.norm = nn.LayerNorm(width)
        self.widths = [config.heads * config.key, config.heads * config.key, width, hidden]
        self.observed = nn.ModuleList(  # q, k, v, W
            TiedMap(width, out, code, bias) for out, bias in zip(self.widths, (False, False, True, True), strict=True)
        )
        self.attended_hidden = TiedMap(width, hidden, code)  # A
        self.hidden_output = TiedMap(hidden, width, code)  # G
        self.attended_output = TiedMap(width, width, code, bias=True)  # P, d

    def prepare(self, code_UC: Tensor, num_elements: int) -> dict[str, Modulation]:
        tied = {"A": self.attended_hidden, "G": self.hidden_output, "P": self.attended_output}
        prepared = {name: Modulation(tied_map.prepare(code_UC)) for name, tied_map in tied.items()}
        return prepared | {"observed": Modulation(*(tied_map.prepare(code_UC) for tied_map in self.observed))}  # pyright: ignore[reportCallIssue]

    def forward(self, x_BVD: Tensor, prepared: dict[str, Modulation], pairs: Pairs) -> Tensor:
        # The state of each unit; hidden units and outputs that are missing are 0.
        state: dict[str, Tensor] = {}

        def map_forward(unit: str, name: str) -> Tensor | float:
            return pairs.modulated_linear(state[unit], prepared[name]) if unit in state else 0.0

        def map_back(unit: str, name: str) -> Tensor | float:
            return apply_transposed(state[unit], prepared[name], pairs) if unit in state else 0.0

        observed_RX = pairs.modulated_linear(pairs.dispatch(self.norm(x_BVD)), prepared["observed"])
        *rows, drive_RF = observed_RX.split(self.widths, dim=-1)
        query_RHK, key_RHK, value_RHE = (rows_RX.unflatten(-1, (self.heads, -1)) for rows_RX in rows)
        if self.updates[0] != "attention":
            state["attention"] = mean_value(value_RHE, pairs)
        for unit in self.updates:
            match unit:
                case "attention":
                    field_RD = self.feedback * map_back("hidden", "A") + self.feedback**2 * map_back("output", "P")
                    state[unit] = update_attention(query_RHK, key_RHK, value_RHE, field_RD, pairs)
                case "hidden":
                    state[unit] = torch.tanh(
                        drive_RF + map_forward("attention", "A") + self.feedback * map_back("output", "G")
                    )
                case _:
                    state[unit] = map_forward("hidden", "G") + pairs.modulated_linear(state["attention"], prepared["P"])
        return torch.addcmul(pairs.dispatch(x_BVD), pairs.compatibility, state["output"])
