"""The keys of a recipe: each with its type, bounds, default and help. The values are frozen and need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import ClassVar, Literal

import attrs

from ni_framework.errors import Mark, OptionError, Problem
from ni_framework.options import ComponentSpec, component_option, config, option
from ni_framework.recipe.deepspeed.rules import find_conflicts
from ni_framework.recipe.deepspeed.settings import DeepSpeed
from ni_framework.recipe.validate.fields import RecipeConfig

RECIPE_FORMAT = 1


@config
class AddedFunctionsConfig(RecipeConfig):
    """Functions that were added to a trained script by one growth."""

    functions: int = option(help="number of functions", ge=1)
    body: ComponentSpec | None = component_option(
        "body", optional=True, help="what they do; null: what the first functions do, with the same weights"
    )
    tasks: tuple[str, ...] | None = option(
        default=None, help="the functions take part only if one of these tasks is requested; null: always"
    )
    new: bool = option(
        default=True, help="whether the last growth added them, so that `trainable: [grown]` trains them"
    )


@config
class ScriptConfig(RecipeConfig):
    """One script: an iteration that is repeated with the same weights, and its functions."""

    RENAMED: ClassVar[Mapping[str, str]] = {"temporary": "registers", "grown": "added_functions"}

    iterations: int = option(help="how often the iteration is repeated; can be changed after training", ge=1)
    functions: int = option(help="number of functions, U", ge=1)
    added_functions: tuple[AddedFunctionsConfig, ...] = option(
        default=(), help="functions that were added after training, one item for each growth (`ni grow`)"
    )
    code: int = option(help="width of a function's code, C", ge=1)
    type: int = option(help="width of type space, T", ge=1)
    embedding: ComponentSpec = component_option(
        "embedding", default="separate", help="what the signatures and codes of functions are computed from"
    )
    type_inference: ComponentSpec = component_option(
        "type_inference", default="mlp", help="how an element's type is inferred"
    )
    router: ComponentSpec = component_option(
        "router", default="kernel", help="how types and signatures become compatibilities"
    )
    body: ComponentSpec = component_option(
        "body", default="lines_of_code", help="what a function does with the elements that it processes"
    )
    halting: ComponentSpec | None = component_option(
        "halting", optional=True, help="how many iterations each element gets; null: all iterations"
    )
    registers: int = option(default=0, help="extra learned elements that exist only inside the script", ge=0)
    pooling: Literal["delta", "gating", "sum"] = option(
        default="delta",
        help="delta: an element that no function processes keeps its state; gating: as delta, but an element keeps more of "
        "its state the less open its pairs are; sum: it becomes zero, as in the author's code",
    )
    execution: Literal["auto", "dense", "packed"] = option(
        default="dense",
        help="dense computes every pair of function and element, packed only the open ones, auto the faster of the two for "
        "the number of open pairs; the results are equal up to rounding",
    )

    def __attrs_post_init__(self) -> None:
        is_new = [added.new for added in self.added_functions]
        if is_new != sorted(is_new):
            raise OptionError(
                "added_functions", "has new functions before older ones", "put the items with `new: true` last"
            )

    @property
    def generations(self) -> tuple[int, ...]:
        """The number of functions at the start, and the number that each growth has added."""
        return self.functions, *(added.functions for added in self.added_functions)

    @property
    def generation_ranges(self) -> tuple[tuple[AddedFunctionsConfig | None, range], ...]:
        """The range of functions of each generation, with the config of its growth; None for the functions at the start."""
        ends = accumulate(self.generations)
        generations = zip((None, *self.added_functions), self.generations, ends, strict=True)
        return tuple((added, range(end - number, end)) for added, number, end in generations)

    @property
    def num_functions(self) -> int:
        """The number of all functions."""
        return sum(self.generations)


@config
class ModelConfig(ScriptConfig):
    """The interpreter. The keys of a script that are given here apply to all scripts; `scripts` can override them."""

    RENAMED: ClassVar[Mapping[str, str]] = {**ScriptConfig.RENAMED, "new_tasks": "added_tasks"}

    width: int = option(help="width of an element, D", ge=1)
    input: ComponentSpec = component_option("input", help="how an input becomes elements")
    head: ComponentSpec = component_option("head", default="classify", help="how the final states become outputs")
    scripts: int | tuple[ScriptConfig, ...] = option(
        default=1,
        help="number of scripts, or a list with one mapping per script of the keys that differ from the model's",
        ge=1,
    )
    tasks: dict[str, int] | None = option(
        default=None,
        help="all tasks with their numbers of classes; the data may have only some of them; null: the tasks of the data",
        ge=1,
    )
    added_tasks: tuple[str, ...] = option(default=(), help="the tasks that the last growth added (`ni grow`)")

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.tasks is not None and not self.tasks:
            raise OptionError("tasks", "must name at least one task", "or write null for the tasks of the data")
        tasks = tuple(self.tasks or ())
        if self.added_tasks != tasks[len(tasks) - len(self.added_tasks) :]:
            raise OptionError("added_tasks", "must be the last tasks of `tasks`, in the same order")

    @property
    def program(self) -> tuple[ScriptConfig, ...]:
        """The scripts in the order in which they run, each complete."""
        if isinstance(self.scripts, tuple):
            return self.scripts
        return (
            ScriptConfig(**{field.name: getattr(self, field.name) for field in attrs.fields(ScriptConfig)}),
        ) * self.scripts


@config
class OptimizerConfig(RecipeConfig):
    """AdamW. Biases, norms, codes and signatures have no weight decay."""

    lr: float = option(default=1e-3, help="largest learning rate", gt=0)
    weight_decay: float = option(default=0.05, help="decoupled weight decay of the weight matrices", ge=0)
    betas: tuple[float, float] = option(default=(0.9, 0.999), help="AdamW's two averaging factors", ge=0, lt=1)


@config
class ScheduleConfig(RecipeConfig):
    """The learning rate over the run, as a fraction of `optimizer.lr`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"begin": "start_step"}

    use: Literal["one_cycle", "cosine", "constant"] = option(default="one_cycle", help="shape of the schedule")
    warmup: float = option(default=0.1, help="fraction of the steps during which the rate rises", ge=0, lt=1)
    start_step: int = option(
        default=0, help="the step at which it starts; for a grown model, the step at which it was grown", ge=0
    )


@config
class SkipConfig(RecipeConfig):
    """Which optimizer steps are skipped. A step whose loss or gradient is not finite is always skipped."""

    RENAMED: ClassVar[Mapping[str, str]] = {"spike": "max_deviation", "budget": "max_consecutive"}

    max_deviation: float | None = option(
        default=10.0,
        help="standard deviations by which a loss may exceed the mean of the last 100 losses; null: no limit",
        gt=0,
    )
    max_consecutive: int = option(default=10, help="the run ends after so many skipped steps in a row", ge=1)


@config
class TrainConfig(RecipeConfig):
    """How the model is trained."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "accumulate": "micro_batches",
        "clip": "max_grad_norm",
        "average": "ema_decay",
        "recompute": "activation_checkpointing",
        "learn": "trainable",
    }

    steps: int = option(help="number of optimizer steps", ge=1)
    batch: int = option(help="samples per step, over all processes and micro-batches together", ge=1)
    micro_batches: int = option(
        default=1, help="micro-batches per step, over all processes together; more of them need less memory", ge=1
    )
    precision: Literal["fp32", "bf16", "fp16"] = option(
        default="fp32", help="number format of the forward pass; weights stay fp32; fp16 needs a GPU"
    )
    max_grad_norm: float | None = option(default=1.0, help="largest norm of the gradient; null: no clipping", gt=0)
    optimizer: OptimizerConfig = option(default=OptimizerConfig(), help="AdamW's settings")
    schedule: ScheduleConfig = option(default=ScheduleConfig(), help="the learning rate over the run")
    ema_decay: float | None = option(
        default=None,
        help="decay of an exponential moving average (EMA) of the weights, which replaces them in evaluation; null: no EMA",
        gt=0,
        lt=1,
    )
    activation_checkpointing: Literal["none", "iteration", "script"] = option(
        default="none",
        help="what the backward pass computes again instead of storing it: nothing, each iteration, or each script as a whole; "
        "saves memory and takes a third more time",
    )
    trainable: tuple[Literal["grown", "routing", "codes"], ...] | None = option(
        default=None,
        help="what is trained: what the last growth added (grown), type inference, router and signatures (routing), or codes; "
        "null: everything",
    )
    random_iterations: bool = option(
        default=False, help="whether each step uses a random number of iterations, from 1 to the script's own number"
    )
    skip: SkipConfig = option(default=SkipConfig(), help="which steps are skipped because they would damage the model")
    workers: int = option(default=0, help="worker processes that prepare batches; 0: the training process does", ge=0)
    log_every: int = option(default=50, help="steps between two lines of metrics", ge=1)
    evaluate_every: int | None = option(
        default=None, help="steps between two evaluations; null evaluates at the end only", ge=1
    )

    def __attrs_post_init__(self) -> None:
        if self.batch % self.micro_batches:
            raise OptionError(
                "micro_batches", f"must divide the batch of {self.batch}, which {self.micro_batches} does not"
            )
        if self.trainable is not None and not self.trainable:
            raise OptionError("trainable", "must not be empty", "write null to train everything")


@config
class EngineConfig(RecipeConfig):
    """The engine that runs the training."""

    RENAMED: ClassVar[Mapping[str, str]] = {"nvme": "nvme_dir"}

    use: Literal["local", "zero"] = option(
        default="local", help="local: one process, plain PyTorch; zero: one process or many, with DeepSpeed"
    )
    compile: bool = option(
        default=False,
        help="whether torch.compile speeds up the bodies; takes a minute at the start and needs a C++ compiler",
    )
    stage: int | None = option(
        default=None,
        help="what is sharded over the processes: 0 nothing, 1 the optimizer state, 2 gradients too, 3 weights too; null: 2 "
        "with zero",
        ge=0,
        le=3,
    )
    offload: Literal["none", "cpu", "nvme"] = option(
        default="none",
        help="where a GPU stores its shards; none: its own memory, cpu: the machine's memory, nvme: a disk (stage 3)",
    )
    nvme_dir: str | None = option(default=None, help="the folder for `offload: nvme`, on a fast disk of each machine")
    timeout: float = option(default=600.0, help="seconds that a process waits for the others before it fails", gt=0)
    deepspeed: DeepSpeed | None = option(
        default=None, help="DeepSpeed's own settings, which are passed on to DeepSpeed"
    )

    def __attrs_post_init__(self) -> None:
        if self.use == "local":
            for name in ("stage", "nvme_dir", "deepspeed"):
                if getattr(self, name) is not None:
                    raise OptionError(name, "is a setting of `use: zero`", "write `use: zero`, or remove it")
            if self.offload != "none":
                raise OptionError("offload", "is a setting of `use: zero`", "write `use: zero`, or remove it")
            return
        if self.stage is None:
            object.__setattr__(self, "stage", 2)
        if self.offload != "none" and self.stage == 0:
            raise OptionError(
                "offload", "needs a stage that shards something, and stage 0 does not", "use stage 1, 2 or 3"
            )
        if self.offload == "nvme" and self.stage != 3:
            raise OptionError("offload", "nvme needs stage 3", "use `stage: 3` or `offload: cpu`")
        if (self.offload == "nvme") != (self.nvme_dir is not None):
            raise OptionError("nvme_dir", "is used with `offload: nvme`, which needs it", "give both or neither")
        if self.deepspeed and (conflicts := find_conflicts(self.deepspeed, self.stage or 0, self.offload)):
            first = conflicts[0]
            raise OptionError(first.option, first.message, first.hint, others=conflicts[1:])


@config
class Recipe(RecipeConfig):
    """A complete, checked recipe."""

    ni: Literal[1] = option(help="format of the recipe")
    requires: tuple[str, ...] = option(default=(), help="distributions that must be installed, as in 'ni-swirl>=0.1'")
    seed: int = option(default=0, help="seed of everything random", ge=0, lt=2**63)
    model: ModelConfig = option(help="the interpreter")
    data: ComponentSpec = component_option("data", help="the data set that it is trained and tested on")
    train: TrainConfig = option(help="how it is trained")
    engine: EngineConfig = option(default=EngineConfig(), help="the engine that runs the training")
    # The stem of the file, after which the run folder is named.
    name: str = attrs.field(default="recipe", eq=False)
    # Key path -> the place where the recipe gives it.
    marks: Mapping[str, Mark] = attrs.field(factory=dict, eq=False, repr=False)

    def problem_at(self, path: str, message: str, hint: str | None = None) -> Problem:
        """A problem with the value at a key path, with the place of that value or of the nearest mapping around it.

        Args:
            path: The key path, as in `model.body.heads`.
            message: What is wrong, as a phrase that follows the key path.
            hint: What to do about it.
        """
        marked_path = path
        while marked_path and marked_path not in self.marks:
            marked_path = marked_path.rpartition(".")[0]
        return Problem(f"{path}: {message}", self.marks.get(marked_path), hint)
