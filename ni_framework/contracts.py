"""The plugin contract: everything a component may rely on and everything that is asked of it.

Letters, used as shape suffixes of tensors everywhere:

    B batch   U functions   V elements (CLS first, then the input's N)   D width   C code width   T type-space width
    H heads   K key width per head   R rows, one a pair of function and element, in whatever layout they are held

A component is a class with a `Config` nested in it, registered as an entry point of the group `ni_framework.<kind>`
under the name that recipes use:

    [project.entry-points."ni_framework.body"]
    swirl = "ni_swirl:Swirl"

A whole example: a body that turns pairs of features by an angle that the function's code decides, and mixes the elements that
the function takes. It is written once and runs on all pairs as well as on open pairs only, because it acts on rows and leaves
their layout to `pairs`.

    import torch
    from torch import nn

    from ni_framework.contracts import Body, Build, Pairs, Sizes
    from ni_framework.options import config, option
    from ni_framework.errors import OptionError

    class Swirl(Body):
        '''Turns halves of the features into each other, and elements towards their mean: [B, V, D] -> [R, D].'''

        api = 1  # of the contract that it is written for

        @config
        class Config:
            strength: float = option(default=1.0, gt=0, help="largest angle, in radians")

        def __init__(self, config: Config, sizes: Sizes, build: Build) -> None:
            super().__init__()
            if sizes.width % 2:
                raise OptionError("", f"swirl turns pairs of features, so it needs an even width, not {sizes.width}")
            self.strength = config.strength
            self.angle = nn.Linear(sizes.code, sizes.width // 2)

        def prepare(self, code_UC, num_elements):
            return self.strength * torch.tanh(self.angle(code_UC))       # once per forward, [U, D / 2]

        def forward(self, x_BVD, angle_UX, pairs: Pairs):
            left_RX, right_RX = pairs.share(x_BVD).chunk(2, dim=-1)                        # elements -> rows
            cos_RX, sin_RX = pairs.spread(angle_UX.cos()), pairs.spread(angle_UX.sin())    # functions -> rows
            turned_RD = torch.cat([cos_RX * left_RX - sin_RX * right_RX, sin_RX * left_RX + cos_RX * right_RX], dim=-1)
            equal_R11 = torch.zeros_like(turned_RD[..., None, :1])   # with equal keys, attention is the mean, weighted by c,
            mean_RD = pairs.attend(equal_R11, equal_R11, turned_RD.unsqueeze(-2), None).squeeze(-2)   # of a function's elements
            return 0.5 * (turned_RD + mean_RD)

Rules that hold for every component: parameters belong to modules with a `reset_parameters` (torch's own have one), which
alone sets their initial values; no Python branch depends on the values of a tensor, because several processes must run
the same operations; state of functions lives in tensors with a leading U; nothing is stored on `self` in `forward`.
A `forward` of a type inference, router, body or halting may return an `Answer` instead of its result. Its `losses` are
scalars by name, already weighted: they are averaged over iterations, added to the training loss and logged. Its `statistics`
are tensors by name: they are summed over iterations, accumulated parts and processes, and handed to the component's `absorb`
after the optimizer step, the only place where a component may change its buffers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import pluggy
from attrs import frozen
from torch import Tensor, nn

from ni_framework.options import KINDS, Choice, config

API = 1
PROJECT = "ni_framework"
MEASURES = "accuracy", "r2"  # metrics that people are shown beside the loss, whichever the head has


@frozen
class Sizes:
    """What a script's components may know of the model around them; passed when they are built."""

    width: int  # D
    functions: int  # U
    code: int  # C
    type: int  # T
    grid: tuple[int, int] | None  # rows and columns of the input's elements; None if they have no places


class Noise(Protocol):
    """Random numbers that depend on seed, sample, script, iteration and name alone: the same however a batch is divided."""

    def uniform(self, name: str, /, *shape: int, once: bool = False) -> Tensor:
        """Numbers in [0, 1), float32 [B, *shape]; under another name they are others. `once`: equal in all iterations."""
        ...


class Context(NamedTuple):
    """What a component may know of the forward that it is part of."""

    iteration: int  # of its script, from 0
    present_BV: Tensor | None  # False where an element is masked; None: nothing is
    noise: Noise


class Answer(NamedTuple):
    """A result with what is told beside it: auxiliary losses, and statistics for `Component.absorb`."""

    result: Any
    losses: Mapping[str, Tensor] = {}
    statistics: Mapping[str, Tensor] = {}

    @classmethod
    def of(cls, value: Any) -> Answer:
        """What a component returned, in this form."""
        return value if isinstance(value, cls) else cls(value)


class Build(Protocol):
    """Builds the component that a `Choice` names: `build("linear", config.linear, in_features, out_features, code, bias)`."""

    def __call__(self, kind: str, choice: Choice, /, *sizes: Any) -> Any: ...


class Pairs(Protocol):
    """The pairs of function and element that are computed in one iteration, and the layout of their rows.

    Rows are tensors [R, ...]: one row a pair. What R stands for is the layout's affair: all pairs, or the open ones only.
    Anything that acts on the last dimensions works on rows as it does on elements; what needs to know where elements lie
    (a convolution over their grid) goes by `place` and `take`.
    """

    compatibility: Tensor  # [R, 1], c_ui of each row

    def share(self, x_BVD: Tensor, /) -> Tensor:
        """Rows [R, D] in which every function reads the same elements; may be broadcast instead of copied."""
        ...

    def spread(self, value_UX: Tensor, /) -> Tensor:
        """Rows [R, ...] in which every element reads its function's value [U, ...]; may be broadcast."""
        ...

    def modulate(self, x_RD: Tensor, modulation: Any, /) -> Tensor:
        """Rows [R, E]: W (x * s_u) + b, one weight for all functions and a scale of its input for each (`nn.modlin`)."""
        ...

    def multiply(self, x_RD: Tensor, weight_UED: Tensor, /) -> Tensor:
        """Rows [R, E]: each row times the matrix [E, D] of its function."""
        ...

    def attend(self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None, /) -> Tensor:
        """Rows [R, H, E]: modulated attention within each function and sample (`nn.attention`).

        `position_UHVV` is added to the unscaled logits; its U may be 1.
        """
        ...

    def place(self, x_RD: Tensor, /) -> Tensor:
        """Rows [R, D] at their places, [B, U, V, D]: 0 where a pair is closed."""
        ...

    def take(self, x_BUVD: Tensor, /) -> Tensor:
        """Rows [R, D] from what stands at their places, [B, U, V, D]."""
        ...


@config
class NoOptions:
    """The `Config` of a component that has no options."""


class Component(nn.Module):
    """Base of all components with parameters: an integer API version and a `Config` of their options."""

    api: ClassVar[int] = API
    Config: ClassVar[Any] = NoOptions

    def absorb(self, statistics: Mapping[str, Tensor]) -> None:
        """Takes in what `forward` returned as statistics, summed over one step; called without gradients after it."""


class Embedding(Component, ABC):
    """What tells functions apart. Built as `cls(config, sizes, build)`."""

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """Signatures [U, T], brought to length one by the script, and codes [U, C]."""


class TypeInference(Component, ABC):
    """Where in type space each element lies. Built as `cls(config, sizes, build)`."""

    @abstractmethod
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor | Answer:
        """[B, V, D] -> [B, V, T]; brought to length one by the script. What masked elements get is not used."""


class Router(Component, ABC):
    """How much of each element every function takes. Built as `cls(config, sizes, build)`."""

    normalised: bool = True  # compatibilities of an element sum to at most 1
    gradient_through_closed: bool = False  # straight-through kinds: closed pairs pass gradient, so run dense
    grows: bool = True  # functions can be added: it is asked about the first ones alone, too

    @abstractmethod
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor | Answer:
        """Compatibilities [B, U, V] >= 0 of unit types and unit signatures; 0 closes a pair.

        Where `context.present_BV` is False the element is masked. The script closes its pairs; a router only needs to look
        where elements compete with each other.
        """


class Body(Component, ABC):
    """What a function does with the elements it takes. Built as `cls(config, sizes, build)`."""

    def prepare(self, code_UC: Tensor, num_elements: int) -> Any:
        """What depends on the codes alone (tensors, or tuples, lists, dicts of them): formed once per forward of a script."""
        return code_UC

    @abstractmethod
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor | Answer:
        """The elements as each function leaves them, [B, V, D] -> [R, D].

        The interpreter pools them with their compatibilities; closed rows are pooled with 0.
        """


class Halting(Component, ABC):
    """How many iterations each element gets. Built as `cls(config, sizes, build)`.

    An element leaves the script as the mean of its states, sum_i p_i x_i, by the probabilities p_i of halting after iteration
    i; the last iteration takes what is left. One of which nothing is left is taken by no function any more.
    """

    @abstractmethod
    def forward(self, x_BVD: Tensor, left_BV: Tensor, context: Context) -> Tensor | Answer:
        """p_i [B, V] from the states after iteration i: between 0 and `left_BV`, 1 less the probabilities before it."""

    @abstractmethod
    def price(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        """What the iterations cost: losses by name, already weighted, from the probabilities of all iterations [I, B, V]."""


class Linear(Component, ABC):
    """A linear map inside a body, told apart by the code. Built as `cls(config, in_features, out_features, code, bias)`."""

    @abstractmethod
    def prepare(self, code_UC: Tensor) -> Any:
        """What depends on the codes alone; passed to every `forward`."""

    @abstractmethod
    def forward(self, x_RD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        """Rows [R, in_features] -> [R, out_features]."""


class Input(Component, ABC):
    """How an input becomes elements. Built as `cls(config, width)`."""

    shape: tuple[int, ...]  # of one input
    num_elements: int  # N
    grid: (
        tuple[int, int] | None
    )  # their places, if they lie on a grid: rows, columns; element n at (n // columns, n % columns)

    @abstractmethod
    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B, *shape] -> [B, N, D]; what belongs to elements where `mask_BN` is False may be anything, NaN too: drop it first."""


class Head(Component, ABC):
    """How the final states become answers, and what a wrong answer costs. Built as `cls(config, width, tasks)`."""

    @abstractmethod
    def start(self, tasks: Sequence[str]) -> tuple[Tensor, int]:
        """The CLS elements [L, D] that these tasks read, and how many equal ones each of them stands for."""

    @abstractmethod
    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Logits [B, classes] of each task from the final states: the L CLS elements in the order of `start`, then the input's.

        Elements where `present_BV` is False are masked and must not be read; None: none is.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The training loss of each sample, [B]."""

    @abstractmethod
    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What is reported of each sample, [B] each: "loss" without training's extras, and others (`MEASURES` are shown)."""


class Batch(NamedTuple):
    """Samples as they are given to the model. `present` says which samples have an answer for a task (absent key: all)."""

    inputs: Tensor  # [B, *shape]
    targets: dict[str, Tensor]  # task -> [B, ...]
    mask: Tensor | None = None  # [B, N] bool, True = present
    present: dict[str, Tensor] = {}  # task -> [B] bool
    key: Tensor | None = None  # [B] int64, what the model's noise draws from; the trainer fills it in


class Split(Protocol):
    """One part of a data set."""

    def __len__(self) -> int: ...

    def batch(self, index_B: Tensor, key_B: Tensor | None, /) -> Batch:
        """The samples at these indices. Whatever is random draws from `key_B` (`nn.random`); None: nothing is random."""
        ...


class Data(ABC):
    """A data set. Built as `cls(config, build)`, which opens no file: shape and tasks are known where the data are not."""

    api: ClassVar[int] = API
    Config: ClassVar[Any] = NoOptions

    shape: tuple[int, ...]  # of one input
    tasks: Mapping[str, int]  # task -> number of classes; where answers are real numbers, how many

    @abstractmethod
    def open(self) -> Mapping[str, Split]:
        """The parts, "train" and "test". Raises `RunError` naming the files that are expected where they are absent."""


BASES: Mapping[str, type] = dict(
    zip(KINDS, (Embedding, TypeInference, Router, Body, Halting, Linear, Input, Head, Data), strict=True)
)


hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class RunEvents:
    """What happens in a run, told to every plugin in the group `ni_framework.hooks`; implement what you need with `hookimpl`.

    Metrics are plain numbers by name ("train/loss"); a plugin must not change the model or draw from global generators.
    """

    @hookspec
    def run_start(self, run: str, recipe: Any, num_parameters: int) -> None:
        """Before the first step; `run` is the run folder."""

    @hookspec
    def run_step(self, step: int, samples: int, values: Mapping[str, Tensor]) -> None:
        """After every step: "loss", the head's metrics, auxiliary losses. They stay on their device; reading one waits for it."""

    @hookspec
    def run_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Every `train.log_every` steps."""

    @hookspec
    def run_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """After an evaluation on the held-out part."""

    @hookspec
    def run_warning(self, step: int, message: str) -> None:
        """Something looks wrong and the run goes on."""

    @hookspec
    def run_checkpoint(self, step: int, checkpoint: str) -> None:
        """After a checkpoint has its final name."""

    @hookspec
    def run_end(self, summary: Mapping[str, Any]) -> None:
        """After the last step; `summary` is what `ni train --json` prints."""
