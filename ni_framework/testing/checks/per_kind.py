"""What the contract asks of one kind of component alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ni_framework.contracts import Batch, Data
from ni_framework.errors import RunError
from ni_framework.nn.random import keys
from ni_framework.testing.checks.check import check
from ni_framework.testing.failures import Excused, Failure
from ni_framework.testing.harness.case import BATCH, TASKS, Case
from ni_framework.testing.harness.invocation import call, trial
from ni_framework.testing.sandbox.file_access import recorded
from ni_framework.testing.sandbox.rng_state import generators

SAMPLES = 6


@check(
    "router",
    why="the pooled state moves by sum_u c_ui (y_ui - x_i): a negative compatibility moves it backwards, a sum above 1 beyond "
    "what the functions answer",
    fix="return 0 for closed pairs, and divide by the sum over functions, or say normalised = False",
)
def compatibilities(case: Case) -> None:
    """Compatibilities are not negative, and sum to at most 1 over functions if it says so."""
    module, of = case.built(), trial(case)
    present_BV = torch.arange(of.inputs["type"].shape[1]).expand(BATCH, -1) % 3 != 2
    for training, present in itertools.product((False, True), (None, present_BV)):
        c_BUV = call(module.train(training), of.with_inputs(present=present)).results["compatibility"]
        if present is not None:
            c_BUV = torch.where(present[:, None], c_BUV, 0)
        if (c_BUV < 0).any() or not c_BUV.isfinite().all():
            raise Failure(f"its compatibilities go from {c_BUV.min().item():.2g} to {c_BUV.max().item():.2g}")
        most = c_BUV.sum(dim=1).max().item()
        if module.normalised and most > 1 + 1e-6:
            raise Failure(
                f"its compatibilities of an element sum to up to {most:.3g} over functions, and it is `normalised`"
            )


@check(
    "router",
    why="`ni grow` asks a router about the functions that were there before, so that new ones change nothing at first",
    fix="go by the signatures that are given, or say grows = False",
)
def grows(case: Case) -> None:
    """It answers about the first functions alone, too."""
    module, of = case.built(), trial(case)
    if not module.grows:
        raise Excused("it fixes how many functions an element gets, and says so: no function can be added")
    number = of.inputs["signature"].shape[0]
    for first in range(1, number):
        try:
            c_BUV = call(module, of.indexed("U", torch.arange(first))).results["compatibility"]
        except Exception as error:
            raise Failure(
                f"asked about {first} of {number} functions, it fails: {type(error).__name__}: {error}"
            ) from error
        if c_BUV.shape[1] != first:
            raise Failure(f"asked about {first} of {number} functions, it answers about {c_BUV.shape[1]}")


@check(
    "halting",
    why="the probabilities of halting make the outcome a mean of states: they must be probabilities",
    fix="return a part of `left`, between nothing and all of it",
)
def halts(case: Case) -> None:
    """Probabilities lie between 0 and what is left; prices are finite scalars with finite gradients, at 0 and 1 too."""
    module, of = case.built(), trial(case)
    halt_BV, left_BV = call(module, of).results["halt"], of.inputs["left"]
    if (halt_BV < 0).any() or (halt_BV > left_BV + 1e-9).any():
        raise Failure("its probabilities do not lie between 0 and what is left")
    none_BV, all_BV = torch.zeros_like(left_BV), torch.ones_like(left_BV)
    for first, second in ((halt_BV, left_BV - halt_BV), (none_BV, all_BV), (all_BV, none_BV), (none_BV, none_BV)):
        halt_IBV = torch.stack([first, second]).detach().requires_grad_()
        for name, loss in module.price(halt_IBV, None).items():
            if loss.ndim or not loss.isfinite():
                raise Failure(f"its price `{name}` is no finite scalar: {loss.detach()}")
            if not loss.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(loss, halt_IBV, allow_unused=True)
            if gradient is not None and not gradient.isfinite().all():
                raise Failure(
                    f"the gradient of its price `{name}` is not finite where an element halts at once or never"
                )


@check(
    "input",
    why="the model around it is built by these numbers before any input is seen",
    fix="set shape, num_elements and grid in __init__; rows times columns of the grid is num_elements",
)
def announced(case: Case) -> None:
    """Shape, number of elements and grid fit together."""
    module = case.made()
    if not isinstance(module.shape, tuple) or not all(isinstance(size, int) for size in module.shape):
        raise Failure(f"its shape is {module.shape!r}, not a tuple of whole numbers")
    if module.grid is not None and module.grid[0] * module.grid[1] != module.num_elements:
        raise Failure(f"its grid {module.grid} does not hold its {module.num_elements} elements")


@check(
    "head",
    why="a model may be asked for some of its tasks, in any order, and losses of samples are weighted one by one",
    fix="read CLS elements in the order of `tasks`, and return losses and metrics of shape [B]",
)
def tasks(case: Case) -> None:
    """Tasks can be asked for one by one, and losses and metrics are per sample and of that sample."""
    module, of = case.built(), trial(case)
    for asked in (("colour",), ("colour", "shape")):
        cls_LD, count = module.start(asked)
        if cls_LD.ndim != 2 or cls_LD.shape[1] != case.sizes.width or count < 1:
            raise Failure(
                f"its start gives {list(cls_LD.shape)} CLS elements, {count} times, for the tasks {list(asked)}"
            )
        x_BVD = torch.cat([cls_LD.expand(BATCH, -1, -1), of.inputs["x"]], dim=1)
        logits = module(x_BVD, None, asked)
        if list(logits) != list(asked):
            raise Failure(f"asked for the tasks {list(asked)} it answers {list(logits)}")
        for task, answer in logits.items():
            target = torch.arange(BATCH) % TASKS[task]
            told = {"loss": module.loss(answer, target)} | module.metrics(answer, target)
            for name, value in told.items():
                if list(value.shape) != [BATCH] or not value.isfinite().all():
                    raise Failure(
                        f"its {name} of a batch of {BATCH} is {list(value.shape)}; one finite number a sample is wanted"
                    )
            target = torch.where(torch.arange(BATCH) == 0, (target + 1) % TASKS[task], target)
            for name, value in ({"loss": module.loss(answer, target)} | module.metrics(answer, target)).items():
                if not torch.allclose(value[1:], told[name][1:], rtol=1e-9):
                    raise Failure(f"its {name} of a sample changes when the target of another one does")


@check(
    "data",
    why="models are built, shown and measured where the data are not",
    fix="set shape and tasks from the options in __init__, and open files in open()",
    calls=False,
)
def unopened(case: Case) -> None:
    """Shape and tasks are known without a file being opened."""
    assert case.config
    touched: list[str] = []
    try:
        with recorded(touched):
            data = case.made()
    finally:
        if touched:
            raise Failure(f"it {touched[0]} although only its shape and its tasks are asked for")
    if not all(isinstance(size, int) and size > 0 for size in data.shape):
        raise Failure(f"its shape is {data.shape!r}, not a tuple of whole numbers")
    if not data.tasks or not all(isinstance(classes, int) and classes > 0 for classes in data.tasks.values()):
        raise Failure(f"its tasks are {data.tasks!r}, not a mapping from names to numbers of classes")


@check(
    "data",
    why="a run must not depend on the number of workers or processes, and must go on after an interruption as if there had been "
    "none",
    fix="let a sample be a function of its index and its key: draw with nn.random from `key_B`",
)
def samples(case: Case) -> None:
    """Samples have the announced shape and tasks, and are functions of their own index and key alone."""
    data: Data = case.made()
    try:
        splits = data.open()
    except RunError as error:
        raise Excused(f"its files are not here ({error})") from error
    if missing := {"train", "test"} - splits.keys():
        raise Failure(f"it opens no part called {sorted(missing)[0]!r}")
    for part, split in splits.items():
        index_B = torch.arange(SAMPLES) * max(len(split) // SAMPLES, 1) % len(split)
        for key_B in (None, keys(0, index_B)):
            before = generators()
            batch = split.batch(index_B, key_B)
            if moved := [name for name, state in generators().items() if state != before[name]]:
                raise Failure(f"a batch of {part} draws from {moved[0]}")
            _announced(data, batch.inputs, batch.targets, part)
            order = torch.arange(SAMPLES).flip(0)
            again = split.batch(index_B[order], None if key_B is None else key_B[order])
            _reordered(batch, again, order, part)


def _reordered(batch: Batch, again: Batch, order: torch.Tensor, part: str) -> None:
    """Inputs, targets, mask and what else a batch holds are those of the samples, in the order that was asked for."""
    first, second = (dict(_tensors_of(of._asdict())) for of in (batch, again))
    if first.keys() != second.keys():
        raise Failure(f"a batch of {part} holds other things when its samples come in another order")
    for name, value in first.items():
        if not torch.equal(second[name], value[order]):
            what = "" if name == "inputs" else f" ({name})"
            raise Failure(f"a sample of {part} depends on which others are in its batch{what}")


def _tensors_of(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield where + name, value.nan_to_num() if value.is_floating_point() else value
        elif isinstance(value, Mapping):
            yield from _tensors_of(value, f"{where}{name} ")


def _announced(data: Data, inputs: torch.Tensor, targets: Mapping[str, torch.Tensor], part: str) -> None:
    if tuple(inputs.shape[1:]) != tuple(data.shape) or not inputs.is_floating_point():
        raise Failure(
            f"inputs of {part} are {inputs.dtype} {list(inputs.shape[1:])}, and it announces {list(data.shape)}"
        )
    if set(targets) != set(data.tasks):
        raise Failure(f"targets of {part} are of the tasks {sorted(targets)}, and it announces {sorted(data.tasks)}")
    for task, target in targets.items():
        if target.is_floating_point():
            _numbers(target, (len(inputs), data.tasks[task]), f"targets of {part}, {task},")
            continue
        low, high, classes = target.min(), target.max(), data.tasks[task]
        if len(target) != len(inputs) or low < 0 or high >= classes:
            raise Failure(f"targets of {part}, {task}, go from {low} to {high}, and it has {classes} classes")


def _numbers(target: torch.Tensor, shape: tuple[int, int], what: str) -> None:
    """Real numbers, as many as the task announces for each sample: where it is one, [B] will do."""
    if tuple(target.shape) not in (shape, shape[:1] if shape[1] == 1 else shape):
        raise Failure(f"{what} are of shape {list(target.shape)}, and it announces {shape[1]} for each of {shape[0]}")
    if not target.isfinite().all():
        raise Failure(f"{what} are not all finite")
