"""The values a recipe holds, frozen and without torch: every key, its type, bounds, default and help stand here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Literal

import attrs

from ni_framework.errors import Mark, OptionError, Problem
from ni_framework.options import Choice, component, config, option
from ni_framework.recipe.deepspeed.rules import misfits
from ni_framework.recipe.deepspeed.settings import DeepSpeed

FORMAT = 1


@config
class Grown:
    """Functions that were added to a trained script at once."""

    functions: int = option(help="number of functions", ge=1)
    body: Choice | None = component(
        "body", optional=True, help="what they do; null: what the script's own functions do, with the same weights"
    )
    tasks: tuple[str, ...] | None = option(
        default=None, help="tasks of which one must be asked for, or they take no part; null: any"
    )
    new: bool = option(
        default=True, help="whether the last growth added them, so that they are what `learn: [grown]` trains"
    )


@config
class Script:
    """One script: an iteration that is repeated with the same weights, and the functions it holds."""

    iterations: int = option(help="how often the iteration is repeated; can be changed after training", ge=1)
    functions: int = option(help="number of functions, U", ge=1)
    grown: tuple[Grown, ...] = option(
        default=(), help="functions beside them that were added after training, one item a growth (`ni grow`)"
    )
    code: int = option(help="width of a function's code, C", ge=1)
    type: int = option(help="width of type space, T", ge=1)
    embedding: Choice = component(
        "embedding", default="separate", help="what signatures and codes, which tell functions apart, are made from"
    )
    type_inference: Choice = component("type_inference", default="mlp", help="how an element's type is inferred")
    router: Choice = component("router", default="kernel", help="how types and signatures become compatibilities")
    body: Choice = component("body", default="lines_of_code", help="what a function does with the elements it takes")
    halting: Choice | None = component(
        "halting", optional=True, help="how many iterations each element gets; null gives all of them to all"
    )
    temporary: int = option(default=0, help="extra learned elements that take part in the script and end with it", ge=0)
    pooling: Literal["delta", "gating", "sum"] = option(
        default="delta",
        help="delta: an element that no function takes keeps its state; gating: as delta, but the more closed, the more it "
        "keeps; sum: it becomes zero, as in the author's code",
    )
    execution: Literal["auto", "dense", "packed"] = option(
        default="dense",
        help="dense computes every pair of function and element, packed only the open ones, auto whichever is faster for as "
        "many as are open; the numbers are equal up to rounding",
    )

    def __attrs_post_init__(self) -> None:
        if [grown.new for grown in self.grown] != sorted(grown.new for grown in self.grown):
            raise OptionError("grown", "has new functions before older ones", "put those with `new: true` last")

    @property
    def generations(self) -> tuple[int, ...]:
        """How many functions it began with, and how many each growth has added."""
        return self.functions, *(grown.functions for grown in self.grown)

    @property
    def members(self) -> tuple[tuple[Grown | None, range], ...]:
        """The functions of each generation: None stands for those it began with."""
        ends = accumulate(self.generations)
        parts = zip((None, *self.grown), self.generations, ends, strict=True)
        return tuple((grown, range(end - number, end)) for grown, number, end in parts)

    @property
    def num_functions(self) -> int:
        """All functions together."""
        return sum(self.generations)


@config
class Model(Script):
    """The interpreter. The keys of a script given here hold for all scripts; `scripts` may override them one by one."""

    width: int = option(help="width of an element, D", ge=1)
    input: Choice = component("input", help="how an input becomes elements")
    head: Choice = component("head", default="classify", help="how the final states become answers")
    scripts: int | tuple[Script, ...] = option(
        default=1, help="number of scripts, or a list with one mapping per script of the keys that differ in it", ge=1
    )
    tasks: dict[str, int] | None = option(
        default=None,
        help="all tasks with their numbers of classes, of which the data may have some; null: those of the data",
        ge=1,
    )
    new_tasks: tuple[str, ...] = option(default=(), help="which of them the last growth added (`ni grow`)")

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.tasks is not None and not self.tasks:
            raise OptionError("tasks", "must name at least one task", "or null, for those of the data")
        tasks = tuple(self.tasks or ())
        if self.new_tasks != tasks[len(tasks) - len(self.new_tasks) :]:
            raise OptionError("new_tasks", "must be the last ones of `tasks`, in their order")

    @property
    def program(self) -> tuple[Script, ...]:
        """The scripts in the order in which they run, each complete."""
        if isinstance(self.scripts, tuple):
            return self.scripts
        return (Script(**{field.name: getattr(self, field.name) for field in attrs.fields(Script)}),) * self.scripts


@config
class Optimizer:
    """AdamW. Biases, norms, codes and signatures are never decayed."""

    lr: float = option(default=1e-3, help="largest learning rate", gt=0)
    weight_decay: float = option(default=0.05, help="decoupled weight decay of the matrices", ge=0)
    betas: tuple[float, float] = option(default=(0.9, 0.999), help="AdamW's two averaging factors", ge=0, lt=1)


@config
class Schedule:
    """The learning rate over the run, in parts of `optimizer.lr`."""

    use: Literal["one_cycle", "cosine", "constant"] = option(default="one_cycle", help="shape of the schedule")
    warmup: float = option(default=0.1, help="part of the steps in which the rate rises", ge=0, lt=1)
    begin: int = option(default=0, help="the step that it begins with: of a grown model, where it was grown", ge=0)


@config
class Skip:
    """Which steps are left out because they would do harm; a loss or gradient that is not finite always is."""

    spike: float | None = option(
        default=10.0,
        help="deviations by which a loss may exceed the mean of the last 100; null: any number",
        gt=0,
    )
    budget: int = option(default=10, help="steps skipped in a row that end the run", ge=1)


@config
class Train:
    """How the model is trained."""

    steps: int = option(help="number of optimizer steps", ge=1)
    batch: int = option(help="samples per step, over all processes and accumulated parts together", ge=1)
    accumulate: int = option(
        default=1, help="parts in which a batch is computed, by all processes together, to save memory", ge=1
    )
    precision: Literal["fp32", "bf16", "fp16"] = option(
        default="fp32", help="number format of the forward pass; weights stay fp32; fp16 needs a GPU"
    )
    clip: float | None = option(default=1.0, help="largest norm of the gradient; null leaves it as it is", gt=0)
    optimizer: Optimizer = option(default=Optimizer(), help="AdamW's settings")
    schedule: Schedule = option(default=Schedule(), help="the learning rate over the run")
    average: float | None = option(
        default=None,
        help="factor of an exponential average of the weights, which is evaluated and loaded in their place; null: none",
        gt=0,
        lt=1,
    )
    recompute: Literal["none", "iteration", "script"] = option(
        default="none",
        help="what is computed again on the way back, from the state before it, to save memory: nothing, each iteration, or "
        "each script as a whole; takes a third more time",
    )
    learn: tuple[Literal["grown", "routing", "codes"], ...] | None = option(
        default=None,
        help="what is trained: what the last growth added, type inference and router and signatures, or codes; null: everything",
    )
    random_iterations: bool = option(
        default=False, help="whether each step takes a random number of iterations, from 1 to the script's own"
    )
    skip: Skip = option(default=Skip(), help="steps that are left out because they would do harm")
    workers: int = option(default=0, help="processes that prepare batches ahead; 0: the training process itself", ge=0)
    log_every: int = option(default=50, help="steps between two lines of metrics", ge=1)
    evaluate_every: int | None = option(
        default=None, help="steps between two evaluations; null evaluates at the end only", ge=1
    )

    def __attrs_post_init__(self) -> None:
        if self.batch % self.accumulate:
            raise OptionError("accumulate", f"must divide the batch of {self.batch}, and {self.accumulate} does not")
        if self.learn is not None and not self.learn:
            raise OptionError("learn", "must name something", "or null, for everything")


@config
class Engine:
    """What carries the training out."""

    use: Literal["local", "zero"] = option(
        default="local", help="local: one process, plain PyTorch; zero: one process or many, with DeepSpeed"
    )
    compile: bool = option(
        default=False,
        help="whether torch.compile makes the bodies faster; takes a minute at the start, and a C++ compiler",
    )
    stage: int | None = option(
        default=None,
        help="what processes divide among themselves: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too; "
        "null: 2 with zero",
        ge=0,
        le=3,
    )
    offload: Literal["none", "cpu", "nvme"] = option(
        default="none", help="where a GPU puts what zero divides: the machine's memory, or a disk (stage 3)"
    )
    nvme: str | None = option(default=None, help="the folder for `offload: nvme`, on a fast disk of each machine")
    timeout: float = option(default=600.0, help="seconds that a process waits for the others before it gives up", gt=0)
    deepspeed: DeepSpeed | None = option(default=None, help="DeepSpeed's own settings, which are passed on to it")

    def __attrs_post_init__(self) -> None:
        if self.use == "local":
            for name in ("stage", "nvme", "deepspeed"):
                if getattr(self, name) is not None:
                    raise OptionError(name, "is a setting of `use: zero`", "write `use: zero`, or leave it out")
            if self.offload != "none":
                raise OptionError("offload", "is a setting of `use: zero`", "write `use: zero`, or leave it out")
            return
        if self.stage is None:
            object.__setattr__(self, "stage", 2)
        if self.offload != "none" and self.stage == 0:
            raise OptionError("offload", "stage 0 divides nothing that could be put elsewhere", "use stage 1, 2 or 3")
        if self.offload == "nvme" and self.stage != 3:
            raise OptionError("offload", "a disk is for stage 3 alone", "use `stage: 3` or `offload: cpu`")
        if (self.offload == "nvme") != (self.nvme is not None):
            raise OptionError("nvme", "goes with `offload: nvme`, and that with a folder", "give both or neither")
        if self.deepspeed and (faults := misfits(self.deepspeed, self.stage or 0, self.offload)):
            raise OptionError(faults[0].option, faults[0].message, faults[0].hint, also=faults[1:])


@config
class Recipe:
    """A whole recipe, checked and complete."""

    ni: Literal[1] = option(help="format of the recipe")
    requires: tuple[str, ...] = option(default=(), help="distributions that must be installed, as in 'ni-swirl>=0.1'")
    seed: int = option(default=0, help="where everything random starts", ge=0, lt=2**63)
    model: Model = option(help="the interpreter")
    data: Choice = component("data", help="what it is trained and tested on")
    train: Train = option(help="how it is trained")
    engine: Engine = option(default=Engine(), help="what carries the training out")
    name: str = attrs.field(default="recipe", eq=False)  # the file's stem: names the run folder
    marks: Mapping[str, Mark] = attrs.field(factory=dict, eq=False, repr=False)  # key path -> where it was given

    def problem(self, path: str, message: str, hint: str | None = None) -> Problem:
        """A problem with the value at a key path, placed where the recipe gives it or the nearest mapping around it."""
        where = path
        while where and where not in self.marks:
            where = where.rpartition(".")[0]
        return Problem(f"{path}: {message}", self.marks.get(where), hint)
