"""The plugin contract: everything that a component may use, and everything that is expected of it.

Letters, used as shape suffixes of tensors everywhere:

    B batch   U functions   V elements (CLS first, then the input's N)   D width   C code width   T type-space width
    H heads   K key width per head   R rows, one for each pair of function and element, in the layout in use
    L CLS elements   I iterations

A component is a class with a `Config` nested in it. It is registered as an entry point of the group `ni_framework.<kind>`,
under the name that recipes use:

    [project.entry-points."ni_framework.body"]
    swirl = "ni_swirl:Swirl"

A complete example: a body that rotates pairs of features by an angle that depends on the function's code, and mixes the
elements that the function takes. It is written once and runs on all pairs as well as on open pairs only, because it
computes on rows and leaves their layout to `pairs`.

    import torch
    from torch import nn

    from ni_framework.contracts import Body, ComponentFactory, Pairs, Sizes
    from ni_framework.options import config, option
    from ni_framework.errors import OptionError

    class Swirl(Body):
        '''Rotates halves of the features into each other, and moves elements towards their mean: [B, V, D] -> [R, D].'''

        # The version of the contract that this class is written for.
        api = 2

        @config
        class Config:
            strength: float = option(default=1.0, gt=0, help="largest angle, in radians")

        def __init__(self, config: Config, sizes: Sizes, build: ComponentFactory) -> None:
            super().__init__()
            if sizes.width % 2:
                raise OptionError("", f"swirl rotates pairs of features, so it needs an even width, not {sizes.width}")
            self.strength = config.strength
            self.angle = nn.Linear(sizes.code, sizes.width // 2)

        def prepare(self, code_UC, num_elements):
            return self.strength * torch.tanh(self.angle(code_UC))       # once per forward, [U, D / 2]

        def forward(self, x_BVD, angle_UX, pairs: Pairs):
            left_RX, right_RX = pairs.dispatch(x_BVD).chunk(2, dim=-1)                     # elements -> rows
            cos_RX, sin_RX = pairs.expand(angle_UX.cos()), pairs.expand(angle_UX.sin())    # functions -> rows
            turned_RD = torch.cat([cos_RX * left_RX - sin_RX * right_RX, sin_RX * left_RX + cos_RX * right_RX], dim=-1)
            # With equal keys, attention is the mean of a function's elements, weighted by their compatibilities.
            equal_R11 = torch.zeros_like(turned_RD[..., None, :1])
            mean_RD = pairs.attention(equal_R11, equal_R11, turned_RD.unsqueeze(-2), None).squeeze(-2)
            return 0.5 * (turned_RD + mean_RD)

Rules for every component:

- Parameters belong to modules with a `reset_parameters` method (torch's own modules have one), which alone sets their
  initial values.
- No Python branch depends on the values of a tensor, because all ranks must run the same operations.
- The state of functions is kept in tensors whose first dimension is U.
- `forward` stores nothing on `self`.
- The `forward` of a type inference, router, body, halting, input or head may return an `Output` instead of its value.
  Auxiliary losses are scalars by name, already weighted: they are averaged over iterations, added to the training loss and
  logged. Statistics are tensors by name: they are summed over iterations, micro-batches and ranks, and passed to the
  component's `update_buffers` after the optimizer step. This is the only place where a component may change its buffers.
- A body or an input that sets `takes_context = True` receives the `Context` as a keyword argument of `forward`. Type
  inferences, routers and haltings always receive it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from attrs import frozen
from torch import Tensor, nn

from ni_framework.options import COMPONENT_KINDS, ComponentSpec, config
from ni_framework.run_events import PROJECT_NAME as PROJECT_NAME
from ni_framework.run_events import RunEvents as RunEvents
from ni_framework.run_events import hookimpl as hookimpl
from ni_framework.run_events import hookspec as hookspec

API_VERSION = 2

# Metrics that are printed beside the loss, whichever head reports them.
SUMMARY_METRICS = "accuracy", "one_minus_mse"


@frozen
class Sizes:
    """What the components of a script are built for: the sizes of the model around them."""

    width: int  # D
    functions: int  # U
    code: int  # C
    type: int  # T
    grid: tuple[int, int] | None  # Rows and columns of the input's elements; None if the elements have no positions


class Noise(Protocol):
    """Random numbers that depend on seed, sample, script, iteration and name alone, and not on how a batch is split."""

    def uniform(self, name: str, /, *shape: int, per_forward: bool = False) -> Tensor:
        """Returns numbers in [0, 1), float32 [B, *shape].

        Args:
            name: Each name has numbers of its own.
            *shape: The shape of the numbers of one sample.
            per_forward: Whether all iterations of a forward pass get the same numbers.
        """
        ...


class Context(NamedTuple):
    """Where in a forward pass a component is called."""

    iteration: int  # The iteration of its script, from 0; 0 for an input
    present_BV: Tensor | None
    """False where an element is masked; None if no element is. An input receives its own mask, [B, N]."""
    noise: Noise


class Output(NamedTuple):
    """The value that a component returns, with auxiliary losses, and statistics for `Component.update_buffers`."""

    value: Any
    aux_losses: Mapping[str, Tensor] = {}
    statistics: Mapping[str, Tensor] = {}

    @classmethod
    def wrap(cls, value: Any) -> Output:
        """Returns what a component returned as an `Output`."""
        return value if isinstance(value, cls) else cls(value)


class ComponentFactory(Protocol):
    """Builds the component of a `ComponentSpec`: `build("linear", config.linear, in_features, out_features, code, bias)`."""

    def __call__(self, kind: str, spec: ComponentSpec, /, *sizes: Any) -> Any: ...


class Pairs(Protocol):
    """The pairs of function and element that are computed in one iteration, and the layout of their rows.

    Rows are tensors [R, ...], one row for each pair. The layout decides what R is: all pairs, or the open pairs only.
    Operations on the last dimensions work on rows as they do on elements. An operation that needs to know where in the
    input an element is, such as a convolution over the grid, uses `to_dense` and `from_dense`.
    """

    compatibility: Tensor  # [R, 1], the compatibility c_ui of each row

    def dispatch(self, x_BVD: Tensor, /) -> Tensor:
        """Returns rows [R, D] in which every function reads the same elements; they may be broadcast instead of copied."""
        ...

    def expand(self, value_UX: Tensor, /) -> Tensor:
        """Returns rows [R, ...] in which every element reads its function's value [U, ...]; they may be broadcast."""
        ...

    def modulated_linear(self, x_RD: Tensor, modulation: Any, /) -> Tensor:
        """Returns rows [R, E]: W (x * s_u) + b, with one weight for all functions and an input scale for each (`nn.modlin`)."""
        ...

    def grouped_linear(self, x_RD: Tensor, weight_UED: Tensor, /) -> Tensor:
        """Returns rows [R, E]: each row times the matrix [E, D] of its function."""
        ...

    def attention(
        self, query_RHK: Tensor, key_RHK: Tensor, value_RHE: Tensor, position_UHVV: Tensor | None, /
    ) -> Tensor:
        """Returns rows [R, H, E]: modulated attention within each function and sample (`nn.attention`).

        `position_UHVV` is added to the unscaled logits; its U may be 1.
        """
        ...

    def to_dense(self, x_RD: Tensor, /) -> Tensor:
        """Returns the rows [R, D] in the order of functions and elements, [B, U, V, D]; closed pairs are 0."""
        ...

    def from_dense(self, x_BUVD: Tensor, /) -> Tensor:
        """Returns the rows [R, D] of a tensor in the order of functions and elements, [B, U, V, D]."""
        ...


@config
class NoOptions:
    """The `Config` of a component that has no options."""


class Component(nn.Module):
    """Base of all components with parameters: an integer API version and a `Config` of their options."""

    api: ClassVar[int] = API_VERSION
    Config: ClassVar[Any] = NoOptions

    takes_context: ClassVar[bool] = False  # Whether `forward` of a body or an input receives `context: Context`

    def update_buffers(self, statistics: Mapping[str, Tensor]) -> None:
        """Updates buffers from the statistics of `forward`, summed over one step; called after it, without gradients."""


class Embedding(Component, ABC):
    """Signatures and codes, which distinguish the functions. Built as `cls(config, sizes, build)`.

    The script sets `generations`: how many functions the model had at first, and how many each growth added. An embedding
    that multiplies rows of functions uses one product for each generation, since more rows may be rounded differently.
    """

    generations: Sequence[int] = ()

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns signatures [U, T], which the script scales to unit length, and codes [U, C]."""


class TypeInference(Component, ABC):
    """The position of each element in type space. Built as `cls(config, sizes, build)`."""

    @abstractmethod
    def forward(self, x_BVD: Tensor, context: Context) -> Tensor | Output:
        """Returns types [B, V, T], which the script scales to unit length. Types of masked elements are not used."""


class Router(Component, ABC):
    """How much of each element every function takes. Built as `cls(config, sizes, build)`."""

    normalised: bool = True  # Whether the compatibilities of an element sum to at most 1
    straight_through: bool = False  # Whether closed pairs pass gradient, so that all pairs must be computed
    supports_growth: bool = True
    """Whether functions can be added: the router is then also called with the first functions alone."""

    @abstractmethod
    def forward(self, type_BVT: Tensor, signature_UT: Tensor, context: Context) -> Tensor | Output:
        """Returns compatibilities [B, U, V] >= 0 of unit types and unit signatures; 0 closes a pair.

        Where `context.present_BV` is False the element is masked. The script closes its pairs; a router needs the mask only
        if elements compete with each other.
        """


class Body(Component, ABC):
    """What a function does with the elements that it takes. Built as `cls(config, sizes, build)`."""

    def prepare(self, code_UC: Tensor, num_elements: int) -> Any:
        """Returns what depends on the codes alone (tensors, or tuples, lists, dicts of them); once per forward of a script."""
        return code_UC

    @abstractmethod
    def forward(self, x_BVD: Tensor, prepared: Any, pairs: Pairs) -> Tensor | Output:
        """Returns each function's result for its elements, [B, V, D] -> [R, D].

        The interpreter combines them, weighted by compatibility; closed rows have weight 0. With `takes_context`, the
        signature is `forward(x_BVD, prepared, pairs, context)`.
        """


class Halting(Component, ABC):
    """How many iterations each element gets. Built as `cls(config, sizes, build)`.

    The script returns, for each element, the mean of its states sum_i p_i x_i over the probabilities p_i of halting after
    iteration i; the last iteration takes the remaining probability. An element with none remaining is closed to all functions.
    """

    @abstractmethod
    def forward(self, x_BVD: Tensor, remaining_BV: Tensor, context: Context) -> Tensor | Output:
        """Returns p_i [B, V] from the states after iteration i.

        Args:
            x_BVD: The states after iteration i.
            remaining_BV: 1 minus the probabilities of earlier iterations; p_i is between 0 and this.
            context: Where in the forward pass this is.
        """

    @abstractmethod
    def cost(self, halt_IBV: Tensor, present_BV: Tensor | None) -> Mapping[str, Tensor]:
        """Returns the losses for the iterations taken: scalars by name, already weighted.

        Args:
            halt_IBV: The probabilities of halting after each iteration.
            present_BV: False where an element is masked; None if no element is.
        """


class Linear(Component, ABC):
    """A linear map inside a body that depends on the code. Built as `cls(config, in_features, out_features, code, bias)`."""

    @abstractmethod
    def prepare(self, code_UC: Tensor) -> Any:
        """Returns what depends on the codes alone; passed to every `forward`."""

    @abstractmethod
    def forward(self, x_RD: Tensor, prepared: Any, pairs: Pairs) -> Tensor:
        """Returns rows [R, out_features] of rows [R, in_features]."""


class Input(Component, ABC):
    """Turns an input into elements. Built as `cls(config, width)`."""

    shape: tuple[int, ...]  # The shape of one input
    num_elements: int  # N
    grid: tuple[int, int] | None
    """Rows and columns, if the elements have positions on a grid: element n is at (n // columns, n % columns)."""

    @abstractmethod
    def forward(self, inputs: Tensor, mask_BN: Tensor | None) -> Tensor | Output:
        """Returns the elements [B, N, D] of inputs [B, *shape].

        Where `mask_BN` is False the input may hold any values, NaN included: replace them first. With `takes_context`, the
        signature is `forward(inputs, mask_BN, context)`.
        """


class Head(Component, ABC):
    """Turns final states into logits, and computes the loss. Built as `cls(config, width, tasks)`."""

    @abstractmethod
    def cls_tokens(self, tasks: Sequence[str]) -> tuple[Tensor, int]:
        """Returns the CLS elements [L, D] of these tasks, and their multiplicity: attention counts each that many times."""

    @abstractmethod
    def forward(self, x_BVD: Tensor, present_BV: Tensor | None, tasks: Sequence[str]) -> dict[str, Tensor] | Output:
        """Returns the logits [B, classes] of each task.

        Args:
            x_BVD: The final states: the L CLS elements in the order of `cls_tokens`, then the input's.
            present_BV: False where an element is masked and must not be read; None if no element is.
            tasks: The requested tasks.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the training loss of each sample, [B]."""

    @abstractmethod
    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns the metrics of each sample, [B] each: "loss" without regularisation, and others (see `SUMMARY_METRICS`)."""


class Batch(NamedTuple):
    """Samples as they are passed to the model."""

    inputs: Tensor  # [B, *shape]
    targets: dict[str, Tensor]  # task -> [B, ...]
    mask: Tensor | None = None  # [B, N] bool, True where an element is present
    present: dict[str, Tensor] = {}
    """task -> [B] bool, which samples have a target for the task; all of them without the key."""
    key: Tensor | None = None  # [B] int64, the seed of the model's noise for each sample; set by the training loop


class Split(Protocol):
    """One part of a data set."""

    def __len__(self) -> int: ...

    def batch(self, index_B: Tensor, key_B: Tensor | None, /) -> Batch:
        """Returns the samples at these indices. Augmentation draws from `key_B` (`nn.random`); with None there is none."""
        ...


class Data(ABC):
    """A data set. Built as `cls(config, build)`, which opens no file: shape and tasks are available without the data."""

    api: ClassVar[int] = API_VERSION
    Config: ClassVar[Any] = NoOptions

    shape: tuple[int, ...]  # The shape of one input
    tasks: Mapping[str, int]  # task -> number of classes, or of real-valued targets

    @abstractmethod
    def open(self) -> Mapping[str, Split]:
        """Returns the splits "train" and "test". Raises `RunError` that names the expected files if they are missing."""


COMPONENT_BASES: Mapping[str, type] = dict(
    zip(
        COMPONENT_KINDS,
        (Embedding, TypeInference, Router, Body, Halting, Linear, Input, Head, Data),
        strict=True,
    )
)


# Names of plugin API 1 -> their names now.
RENAMED = {
    "API": "API_VERSION",
    "Answer": "Output",
    "BASES": "COMPONENT_BASES",
    "Build": "ComponentFactory",
    "MEASURES": "SUMMARY_METRICS",
    "PROJECT": "PROJECT_NAME",
}


def __getattr__(name: str) -> Any:
    if name in RENAMED:
        raise ImportError(f"ni_framework.contracts.{name} is now {RENAMED[name]} (plugin API {API_VERSION})")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
