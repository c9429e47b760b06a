"""Measures the speed and memory of a recipe's model on random inputs, compared with a transformer of equal FLOPs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
from attrs import frozen

from ni_framework.analysis.memory_tracker import MemoryTracker
from ni_framework.contracts import Batch
from ni_framework.data.batch import to_device
from ni_framework.engines.base import PRECISION_DTYPES, Engine
from ni_framework.engines.local import LocalEngine
from ni_framework.errors import FitError, NIError
from ni_framework.evaluation.evaluate import eval_mode
from ni_framework.model.compose import build_model, is_out_of_memory
from ni_framework.model.flops import FlopCount, count_flops, count_forward_flops
from ni_framework.model.trace import trace
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.recipe import Recipe, dump
from ni_framework.registry import load_recipe_text

MODES = ("training", "inference", "one image")
WARM_UP_ROUNDS = 3
# The speed of this machine is measured with a product of two square matrices of this size.
CPU_MATRIX_SIZE = 2048
# A smaller product is too short to use a GPU fully.
GPU_MATRIX_SIZE = 8192
INTERPRETER, TRANSFORMER = "interpreter", "transformer"


@frozen
class BenchRow:
    """One measurement of a model. The attributes are keys of the document that `ni bench --json` prints.

    Attributes:
        model: "interpreter" or "transformer".
        execution: "dense", "packed" or "compiled".
        mode: One of `MODES`.
        batch: The number of images in a batch.
        milliseconds: The median time of a step.
        images_per_second: The batch size divided by this time.
        operations: FLOPs for one image in this mode: of all pairs, or only of open pairs if only these are computed.
        share_of_matrix_rate: FLOP/s of the model divided by the FLOP/s of one large matrix product.
        open_fraction: The fraction of pairs of function and element that are open.
        saved_bytes: Activations saved for backward; 0 in inference, None if the model is compiled, which hides them.
        peak_bytes: The peak of the memory that a step allocates; None if the model is compiled.
        parameters: The number of parameters.
    """

    model: str
    execution: str
    mode: str
    batch: int
    milliseconds: float
    images_per_second: float
    operations: int
    share_of_matrix_rate: float
    open_fraction: float
    saved_bytes: int | None
    peak_bytes: int | None
    parameters: int


class Subject:
    """A model that is measured, and the times of its steps so far."""

    def __init__(self, model: str, execution: str, recipe: Recipe, batch: int) -> None:
        self.model, self.execution = model, execution
        compiles = execution == "compiled"
        self.recipe = _with_overrides(
            recipe,
            f"engine.compile={str(compiles).lower()}",
            f"train.batch={batch}",
            "train.micro_batches=1",
            "train.ema_decay=null",
            "train.skip.max_deviation=null",
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = build_model(self.recipe, device)
        for script in network.scripts:
            script.set_execution("dense" if compiles else execution)
        self.engine = LocalEngine(network, self.recipe)
        self.batches = {
            mode: to_device(random_batch(self.engine, 1 if mode == "one image" else batch), self.engine.device)
            for mode in MODES
        }
        self.seconds: dict[str, list[float]] = {mode: [] for mode in MODES}

    def run(self, mode: str) -> None:
        """Runs one step in this mode and records its time."""
        start = _synchronized_time(self.engine.device)
        self._step(mode)
        self.seconds[mode].append(_synchronized_time(self.engine.device) - start)

    def build_row(self, mode: str, matrix_rate: float) -> BenchRow:
        """Summarizes the measurements in this mode; `matrix_rate` is the FLOP/s of a large matrix product."""
        batch, seconds = self.batches[mode], statistics.median(self.seconds[mode])
        count = len(batch.inputs)
        flops = self._forward_flops(batch) * (3 if mode == "training" else 1)
        saved, peak = self._memory(mode)
        return BenchRow(
            model=self.model,
            execution=self.execution,
            mode=mode,
            batch=count,
            milliseconds=1e3 * seconds,
            images_per_second=count / seconds,
            operations=flops // count,
            share_of_matrix_rate=flops / seconds / matrix_rate,
            open_fraction=self._mean_open_fraction(batch),
            saved_bytes=saved,
            peak_bytes=peak,
            parameters=sum(parameter.numel() for parameter in self.engine.model.parameters()),
        )

    def _forward_flops(self, batch: Batch) -> int:
        """Returns the FLOPs of a forward pass: those of the recipe, or those of the open pairs if only these are computed."""
        if self.execution != "packed":
            return self._recipe_flops.forward_flops(len(batch.inputs))
        with eval_mode(self.engine.model):
            return count_forward_flops(self.engine.model, batch.inputs)

    @cached_property
    def _recipe_flops(self) -> FlopCount:
        return count_flops(self.recipe)

    def _step(self, mode: str) -> None:
        if mode == "training":
            self.engine.step(0, self.batches[mode], trace=False)
        else:
            self._forward(mode)

    def _forward(self, mode: str) -> None:
        batch = self.batches[mode]
        with eval_mode(self.engine.model), torch.inference_mode(), self.engine.autocast():
            self.engine.model(batch.inputs, key=batch.key)

    def _memory(self, mode: str) -> tuple[int | None, int | None]:
        """Measures the bytes that are saved for backward, and the peak memory of a step."""
        if self.execution == "compiled":
            return None, None
        with MemoryTracker() as step_tracker:
            self._step(mode)
        if mode != "training":
            return 0, step_tracker.peak_bytes
        batch, model = self.batches[mode], self.engine.model.train()
        with MemoryTracker() as saved_tracker, self.engine.autocast():
            forward = model(batch.inputs, key=batch.key, detail="losses")
            saved = saved_tracker.live_bytes
        del forward
        return saved, step_tracker.peak_bytes

    def _mean_open_fraction(self, batch: Batch) -> float:
        with eval_mode(self.engine.model):
            batch_trace = trace(self.engine.model, batch.inputs)
        open_fractions = [
            (c_BUV > 0).double().mean().item() for iterations in batch_trace.compatibility for c_BUV in iterations
        ]
        return statistics.mean(open_fractions)


def build_subjects(
    recipe: Recipe, executions: Sequence[str], batch: int, report: Callable[[str], None], transformer: bool = True
) -> list[Subject]:
    """Builds the models to measure and runs each once; models that cannot run on this machine are reported and skipped.

    Args:
        recipe: The recipe to measure.
        executions: The executions of the interpreter to measure.
        batch: The number of images in a batch.
        report: Called with a message for each model that is skipped.
        transformer: Whether to measure a transformer, too.

    Raises:
        FitError: The interpreter with dense execution does not fit into memory.
    """
    planned = [(INTERPRETER, execution, recipe) for execution in executions]
    if transformer:
        planned.append((TRANSFORMER, "dense", build_transformer_recipe(recipe)))
    subjects = []
    for model, execution, subject_recipe in planned:
        try:
            subject = Subject(model, execution, subject_recipe, batch)
            for mode in MODES:
                subject.run(mode)
        except (NIError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                error = FitError("does not fit this machine; lower --batch")
            if not isinstance(error, NIError) or (model, execution) == (INTERPRETER, "dense"):
                raise error
            name = execution if model == INTERPRETER else model
            report(f"{name} is skipped: {str(error).splitlines()[0]}")
        else:
            subjects.append(subject)
    return subjects


def measure_subjects(subjects: Sequence[Subject], rounds: int) -> Iterator[tuple[int, list[BenchRow]]]:
    """Measures all subjects in turn, `rounds` times, and a matrix product before each step.

    The first `WARM_UP_ROUNDS` rounds do not count: until the allocator has reused memory, the system clears pages in every step.

    Yields:
        The number of steps done and an empty list after each step, and the rows at the end.
    """
    rates, done = [], 0
    for number in range(WARM_UP_ROUNDS + rounds):
        if number == WARM_UP_ROUNDS:
            rates = []
            for subject in subjects:
                subject.seconds = {mode: [] for mode in MODES}
        for subject in subjects:
            for mode in MODES:
                rates.append(measure_matrix_rate(subject.engine))
                subject.run(mode)
                done += 1
                yield done, []
    rate = statistics.median(rates)
    yield done, [subject.build_row(mode, rate) for subject in subjects for mode in MODES]


def measure_matrix_rate(engine: LocalEngine) -> float:
    """Measures the FLOP/s of one large matrix product in the precision of the forward pass."""
    dtype = PRECISION_DTYPES[engine.train_config.precision]
    size = GPU_MATRIX_SIZE if engine.device.type == "cuda" else CPU_MATRIX_SIZE
    # The numbers are random because GPUs are faster on constant ones.
    matrix = torch.rand(size, size, dtype=dtype, device=engine.device)
    out = torch.empty_like(matrix)
    start = _synchronized_time(engine.device)
    torch.mm(matrix, matrix, out=out)
    return 2 * size**3 / (_synchronized_time(engine.device) - start)


def build_transformer_recipe(recipe: Recipe) -> Recipe:
    """Returns a pre-norm transformer with the same input, width and elements, and about as many FLOPs as the recipe."""
    options = recipe.model.body.options
    heads = getattr(options, "heads", 4 if recipe.model.width % 4 == 0 else 1)
    key, hidden = getattr(options, "key", recipe.model.width // heads), getattr(options, "hidden", None)
    recipe_positions = getattr(options, "positions", "none")
    positions = recipe_positions if recipe_positions in ("none", "absolute") else "shared"
    body = (
        f"{{use: lines_of_code, lines: 1, heads: {heads}, key: {key}, hidden: {hidden or 'null'}, "
        f"bias: true, positions: {positions}, linear: plain}}"
    )
    one_layer = _with_overrides(
        recipe,
        "model.scripts=1",
        "model.iterations=1",
        "model.functions=1",
        "model.registers=0",
        "model.pooling=delta",
        "model.execution=dense",
        "model.embedding=none",
        "model.type_inference=none",
        "model.router=always_open",
        f"model.body={body}",
    )
    two_layers = _with_overrides(one_layer, "model.scripts=2")
    first, second = count_flops(one_layer).per_image, count_flops(two_layers).per_image
    layers = 1 + round((count_flops(recipe).per_image - first) / (second - first))
    return _with_overrides(one_layer, f"model.scripts={max(layers, 1)}")


def _with_overrides(recipe: Recipe, *overrides: str) -> Recipe:
    return load_recipe_text(dump(recipe), overrides, recipe.name)


def random_batch(engine: Engine, count: int) -> Batch:
    """Draws inputs in [0, 1) and classes, which are equal for all models of equal shape."""
    key_B = rng_keys(0, torch.arange(count))
    tasks: Mapping[str, int] = engine.model.tasks
    targets = {
        task: (uniform(rng_keys(number, key_B)) * classes).long().view(count)
        for number, (task, classes) in enumerate(tasks.items())
    }
    return Batch(uniform(key_B, *engine.model.input.shape), targets, key=key_B)


def _synchronized_time(device: torch.device) -> float:
    """Waits until the device has finished, and returns the time of a clock in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rows_to_json(rows: Sequence[BenchRow]) -> list[dict[str, Any]]:
    """Returns the rows as JSON documents."""
    return [attrs.asdict(row) for row in rows]
