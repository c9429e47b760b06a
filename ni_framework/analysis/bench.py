"""How fast a recipe's model is, and how much memory it takes, on random inputs and beside a transformer of equal operations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
from attrs import frozen

from ni_framework.analysis.memory_tracker import LiveBytes
from ni_framework.contracts import Batch
from ni_framework.data.batch import to
from ni_framework.engines.base import FORMATS, Engine
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import FitError, NIError
from ni_framework.evaluation.evaluate import evaluating
from ni_framework.model.compose import build_model, too_large
from ni_framework.model.flops import Operations, counted, operations
from ni_framework.model.trace import trace
from ni_framework.nn.random import keys, uniform
from ni_framework.recipe import Recipe, dump
from ni_framework.registry import recipe_in

MODES = ("training", "inference", "one image")
WARM_UP = 3  # rounds
MATRIX = 2048  # rows and columns of the matrices whose product is the measure of speed
GPU_MATRIX = 8192  # a GPU is done with a smaller one before it has really begun
INTERPRETER, TRANSFORMER = "interpreter", "transformer"


@frozen
class Row:
    """One measurement: a model, how it was computed, and doing what."""

    model: str  # interpreter, transformer
    execution: str  # dense, packed, compiled
    mode: str  # of MODES
    batch: int
    milliseconds: float  # median of a step
    images_per_second: float
    operations: int  # of an image in this mode; of all pairs, or where only open ones are computed, of these
    share_of_matrix_rate: float  # operations a second, in parts of those of one large product of matrices
    open_fraction: float  # of the pairs of function and element
    saved_bytes: int | None  # kept for the way back, 0 in inference; None where a compiler hides it
    peak_bytes: int | None  # most alive at once of what the step makes
    parameters: int


class Subject:
    """A model that is measured."""

    def __init__(self, model: str, execution: str, recipe: Recipe, batch: int) -> None:
        self.model, self.execution = model, execution
        compiles = execution == "compiled"
        self.recipe = _with(
            recipe,
            f"engine.compile={str(compiles).lower()}",
            f"train.batch={batch}",
            "train.accumulate=1",
            "train.average=null",
            "train.skip.spike=null",
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        built = build_model(self.recipe, device)
        for script in built.scripts:
            script.set_execution("dense" if compiles else execution)
        self.engine = LocalEngine(built, self.recipe)
        self.batches = {
            mode: to(random_batch(self.engine, 1 if mode == "one image" else batch), self.engine.device)
            for mode in MODES
        }
        self.seconds: dict[str, list[float]] = {mode: [] for mode in MODES}

    def run(self, mode: str) -> None:
        """One step in this mode; its time is kept."""
        start = _now(self.engine.device)
        self._step(mode)
        self.seconds[mode].append(_now(self.engine.device) - start)

    def row(self, mode: str, matrix_rate: float) -> Row:
        """What was measured in this mode."""
        batch, seconds = self.batches[mode], statistics.median(self.seconds[mode])
        count = len(batch.inputs)
        of_model = self._operations(batch) * (3 if mode == "training" else 1)
        saved, peak = self._memory(mode)
        return Row(
            model=self.model,
            execution=self.execution,
            mode=mode,
            batch=count,
            milliseconds=1e3 * seconds,
            images_per_second=count / seconds,
            operations=of_model // count,
            share_of_matrix_rate=of_model / seconds / matrix_rate,
            open_fraction=self._open(batch),
            saved_bytes=saved,
            peak_bytes=peak,
            parameters=sum(parameter.numel() for parameter in self.engine.model.parameters()),
        )

    def _operations(self, batch: Batch) -> int:
        """Of a forward: what the recipe asks for, or, if only open pairs are computed, what these take."""
        if self.execution != "packed":
            return self._asked.inference(len(batch.inputs))
        with evaluating(self.engine.model):
            return counted(self.engine.model, batch.inputs)

    @cached_property
    def _asked(self) -> Operations:
        return operations(self.recipe)

    def _step(self, mode: str) -> None:
        if mode == "training":
            self.engine.step(0, self.batches[mode], trace=False)
        else:
            self._forward(mode)

    def _forward(self, mode: str) -> None:
        batch = self.batches[mode]
        with evaluating(self.engine.model), torch.inference_mode(), self.engine.autocast():
            self.engine.model(batch.inputs, key=batch.key)

    def _memory(self, mode: str) -> tuple[int | None, int | None]:
        """Bytes kept for the way back, and the most that a step holds."""
        if self.execution == "compiled":
            return None, None
        with LiveBytes() as step:
            self._step(mode)
        if mode != "training":
            return 0, step.peak
        batch, model = self.batches[mode], self.engine.model.train()
        with LiveBytes() as kept, self.engine.autocast():
            forward = model(batch.inputs, key=batch.key, detail="losses")
            saved = kept.live
        del forward
        return saved, step.peak

    def _open(self, batch: Batch) -> float:
        with evaluating(self.engine.model):
            seen = trace(self.engine.model, batch.inputs)
        opened = [(c_BUV > 0).double().mean().item() for of_script in seen.compatibility for c_BUV in of_script]
        return statistics.mean(opened)


def subjects_of(
    recipe: Recipe, executions: Sequence[str], batch: int, told: Callable[[str], None], transformer: bool = True
) -> list[Subject]:
    """The models to measure, each built and run once; what cannot run here is told and left out."""
    planned = [(INTERPRETER, execution, recipe) for execution in executions]
    if transformer:
        planned.append((TRANSFORMER, "dense", transformer_of(recipe)))
    subjects = []
    for model, execution, of in planned:
        try:
            subject = Subject(model, execution, of, batch)
            for mode in MODES:
                subject.run(mode)
        except (NIError, RuntimeError, MemoryError) as error:
            if too_large(error):
                error = FitError("does not fit this machine; lower --batch")
            if not isinstance(error, NIError) or (model, execution) == (INTERPRETER, "dense"):
                raise error
            left_out = execution if model == INTERPRETER else model
            told(f"{left_out} is left out: {str(error).splitlines()[0]}")
        else:
            subjects.append(subject)
    return subjects


def measure(subjects: Sequence[Subject], rounds: int) -> Iterator[tuple[int, list[Row]]]:
    """Measures all subjects in turn, `rounds` times, with the matrix rate between; yields steps done, at last with the rows.

    Some rounds before them do not count: until memory has found its place, the system clears pages in every step.
    """
    rates, done = [], 0
    for number in range(WARM_UP + rounds):
        if number == WARM_UP:
            rates = []
            for subject in subjects:
                subject.seconds = {mode: [] for mode in MODES}
        for subject in subjects:
            for mode in MODES:
                rates.append(matrix_rate(subject.engine))
                subject.run(mode)
                done += 1
                yield done, []
    rate = statistics.median(rates)
    yield done, [subject.row(mode, rate) for subject in subjects for mode in MODES]


def matrix_rate(engine: LocalEngine) -> float:
    """Operations per second of one large product of matrices in the precision of the forward."""
    dtype = FORMATS[engine.train.precision]
    size = GPU_MATRIX if engine.device.type == "cuda" else MATRIX
    matrix = torch.rand(size, size, dtype=dtype, device=engine.device)  # a GPU is faster on equal numbers
    out = torch.empty_like(matrix)
    start = _now(engine.device)
    torch.mm(matrix, matrix, out=out)
    return 2 * size**3 / (_now(engine.device) - start)


def transformer_of(recipe: Recipe) -> Recipe:
    """A pre-norm transformer of the same input, width and elements, with as many layers as take the recipe's operations."""
    options = recipe.model.body.options
    heads = getattr(options, "heads", 4 if recipe.model.width % 4 == 0 else 1)
    key, hidden = getattr(options, "key", recipe.model.width // heads), getattr(options, "hidden", None)
    given = getattr(options, "positions", "none")
    positions = given if given in ("none", "absolute") else "shared"
    body = (
        f"{{use: lines_of_code, lines: 1, heads: {heads}, key: {key}, hidden: {hidden or 'null'}, "
        f"bias: true, positions: {positions}, linear: plain}}"
    )
    one = _with(
        recipe,
        "model.scripts=1",
        "model.iterations=1",
        "model.functions=1",
        "model.temporary=0",
        "model.pooling=delta",
        "model.execution=dense",
        "model.embedding=none",
        "model.type_inference=none",
        "model.router=always_open",
        f"model.body={body}",
    )
    two = _with(one, "model.scripts=2")
    first, second = operations(one).image, operations(two).image
    layers = 1 + round((operations(recipe).image - first) / (second - first))
    return _with(one, f"model.scripts={max(layers, 1)}")


def _with(recipe: Recipe, *overrides: str) -> Recipe:
    return recipe_in(dump(recipe), overrides, recipe.name)


def random_batch(engine: Engine, count: int) -> Batch:
    """Inputs in [0, 1) and classes, equal for all models of equal shape."""
    key_B = keys(0, torch.arange(count))
    tasks: Mapping[str, int] = engine.model.tasks
    targets = {
        task: (uniform(keys(number, key_B)) * classes).long().view(count)
        for number, (task, classes) in enumerate(tasks.items())
    }
    return Batch(uniform(key_B, *engine.model.input.shape), targets, key=key_B)


def _now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    return [attrs.asdict(row) for row in rows]
