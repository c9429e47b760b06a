"""Growth: a checkpoint of a model with more functions, or fewer, made from one of any engine, stage and number of processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from attrs import evolve
from torch import Tensor

from ni_framework.checkpoint.golden import golden_batch
from ni_framework.checkpoint.loaded_checkpoint import Whole
from ni_framework.checkpoint.lockfile import lock_of
from ni_framework.checkpoint.manifest import LOCK, RECIPE
from ni_framework.checkpoint.run_dir import locked, place_of, point_to
from ni_framework.checkpoint.save import Snapshot, save_checkpoint
from ni_framework.engines.step_guard import Guard
from ni_framework.errors import CheckpointError, RunError, UsageError
from ni_framework.growth.export import Functions
from ni_framework.growth.plan import Growth
from ni_framework.growth.transplant import Function, Outline, name_before, outline_of, transplanted
from ni_framework.model.compose import build_data, build_model, meta_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace
from ni_framework.nn.init import seed_of
from ni_framework.nn.random import keys, uniform
from ni_framework.recipe import Recipe, dump
from ni_framework.registry import recipe_in
from ni_framework.training.metrics import Means
from ni_framework.utils.atomic_files import published, unfinished, write_file

STEP = 0.1  # how far a function that begins near another lies from it, in parts of what each tensor holds for that one
_OPTIMIZER = "engine/optimizer/"
_COUNT = "engine/average/count"


class Init(NamedTuple):
    """How added functions begin: at random; a little beside others, in turn; or as those with codes turned to the opposite."""

    use: Literal["random", "near", "mirror"] = "random"
    like: tuple[Function, ...] = ()  # of one script


class Tensors(NamedTuple):
    """The tensors of a grown checkpoint."""

    weights: dict[str, Tensor]
    averages: dict[str, Tensor] | None
    training: dict[str, Tensor]


Arrange = Callable[[dict[str, Tensor], Outline], object]
"""Gives added functions other values than their initial ones, in place."""


def grown_tensors(before: Whole, growth: Growth, arrange: Arrange) -> Tensors:
    """The weights, averages and training state of the grown model: a pure function of the old ones.

    Old functions keep their rows and the moments that the optimizer has of them; those of new ones are 0. Where something is
    new, steps are counted from 0 again: with the count kept, moments of 0 would not be corrected, and AdamW would move new
    numbers by 3 to 6 times the learning rate for a hundred steps, while old ones are moved a little less now, and soon as before.
    Where a part is held from now on, averaged weights become the weights: those are what answers, and would drift otherwise;
    so they do where nothing is averaged any more.
    What the guard, the running means and alarms have seen is forgotten: it was of another model, and perhaps of other data.
    """
    old, now = outline_of(before.recipe), outline_of(growth.recipe)
    fresh = build_model(growth.recipe).state_dict()
    train = growth.recipe.train
    start = before.weights if train.learn is None and train.average else before.inferring
    weights = transplanted(start, old, fresh, now, growth.origins)
    weights = {name: value.clone() for name, value in weights.items()}
    arrange(weights, now)
    averages = None
    if before.averages is not None and train.average:
        averages = transplanted(before.averages, old, weights, now, growth.origins)
    names = {name: name_before(name, old, now, growth.origins) for name in weights}
    sizes = {name: value.numel() for name, value in before.weights.items()}
    new = any(weights[name].numel() > sizes.get(source or "", 0) for name, source in names.items())
    training: dict[str, Tensor] = {}
    for kind in sorted(
        {key.removeprefix(_OPTIMIZER).partition("/")[0] for key in before.training if key.startswith(_OPTIMIZER)}
    ):
        prefix = f"{_OPTIMIZER}{kind}/"
        known = {key.removeprefix(prefix): value for key, value in before.training.items() if key.startswith(prefix)}
        kept = {name: known[source] for name, source in names.items() if source in known}
        blank = {name: torch.zeros_like(weights[name]) for name, value in kept.items() if value.ndim}
        moved = transplanted(known, old, blank, now, growth.origins)
        if kind == "step" and new:
            kept = {name: torch.zeros_like(value) for name, value in kept.items()}
        training |= {f"{prefix}{name}": moved.get(name, value) for name, value in kept.items()}
    if train.average:
        training[_COUNT] = before.training.get(_COUNT, torch.tensor(0))
    return Tensors(weights, averages, training | forgotten(growth.recipe))


def forgotten(recipe: Recipe) -> dict[str, Tensor]:
    """The training state of a run that has seen nothing yet."""
    state = {f"engine/guard/{name}": value for name, value in Guard(recipe.train.skip).state().items()}
    return state | {f"means/{name}": value for name, value in Means().state().items()}


def arranged(growth: Growth, init: Init) -> Arrange:
    """Has added functions begin as `init` says; a body of their own that is of the same kind begins as the first other's is.

    Raises `UsageError` for `mirror` where codes are made from what signatures are made from too.
    """
    if not init.like:
        return lambda weights, outline: None
    place = init.like[0].script
    added = sorted(function for function in growth.added if function.script == place)
    beside = dict(zip(added, cycle(init.like), strict=False))

    def arrange(weights: dict[str, Tensor], outline: Outline) -> None:
        codes = _held_as_is(growth.recipe, place)[1]
        if init.use == "mirror" and codes is None:
            raise UsageError("--init mirror: codes are no parameters of their own here; use near")
        for name, functions in outline.rows.items():
            row_of = {function: row for row, function in enumerate(functions)}
            if name.endswith(".gates"):
                _open_gates(weights[name], row_of)
                continue
            pairs = [(new, like) for new, like in beside.items() if {new, like} <= row_of.keys()]
            for new, like in pairs if weights[name].is_floating_point() else ():
                value = weights[name][row_of[like]]
                start = -value if init.use == "mirror" and name == codes else value
                weights[name][row_of[new]] = start + STEP * value.square().mean().sqrt() * _noise(name, new, value)
        source = outline.own_bodies.get(init.like[0], f"scripts.{place}.body")
        for body in {outline.own_bodies.get(function, source) for function in added} - {source}:
            _copy_body(weights, source, body, outline)

    def _open_gates(gates_G: Tensor, row_of: Mapping[Function, int]) -> None:
        """Has added functions of new tasks take part in full: no answer that there was hangs on them."""
        for grown, numbers in growth.recipe.model.program[place].members:
            of_tasks = {Function(place, number) for number in numbers} if grown and grown.tasks is not None else set()
            for function in beside.keys() & row_of.keys() & of_tasks:
                gates_G[row_of[function]] = 1

    return arrange


def _copy_body(weights: dict[str, Tensor], source: str, body: str, outline: Outline) -> None:
    """Gives a body the weights of another, if both have the same ones; what they hold for each function stays."""
    given, own = (
        {
            name.removeprefix(place): name
            for name in weights
            if name.startswith(f"{place}.") and name not in outline.rows
        }
        for place in (source, body)
    )
    if {key: weights[name].shape for key, name in given.items()} == {k: weights[n].shape for k, n in own.items()}:
        for key, name in own.items():
            weights[name] = weights[given[key]].clone()


def brought(growth: Growth, added: Sequence[Function], functions: Functions, source: object) -> Arrange:
    """Has functions that growth added be these, which have travelled, and their body what it was.

    Raises `CheckpointError` for functions that do not fit the model.
    """
    script = added[0].script

    def put(weights: dict[str, Tensor], name: str, outline: Outline, value: Tensor) -> None:
        rows = outline.rows.get(name)
        place = weights[name] if rows is None else weights[name][[rows.index(function) for function in added]]
        if place.shape != value.shape:
            raise CheckpointError(
                f"{source}: its functions do not fit: {name} is of shape {list(place.shape)} here, there {list(value.shape)}"
            )
        if rows is None:
            weights[name] = value
        else:
            weights[name][[rows.index(function) for function in added]] = value

    def arrange(weights: dict[str, Tensor], outline: Outline) -> None:
        for name, part in zip(_held_as_is(growth.recipe, script), ("signature", "code"), strict=True):
            if name is None:
                message = "signatures and codes are made from other parameters here, so that none can be brought in"
                raise UsageError(f"{message}; use a model with `embedding: separate`")
            if part not in functions.tensors:
                raise CheckpointError(f"{source}: lacks its functions' {part}; get the file again")
            put(weights, name, outline, functions.tensors[part])
        if (body := outline.own_bodies.get(added[0])) is None:
            return
        own = {name for name in weights if name.startswith(f"{body}.")}
        given = {
            f"{body}.{key.removeprefix('body/')}": v for key, v in functions.tensors.items() if key.startswith("body/")
        }
        if own != given.keys():
            raise CheckpointError(
                f"{source}: its body does not fit: {sorted(own ^ given.keys())[0]} is on one side only"
            )
        for name, value in given.items():
            put(weights, name, outline, value)

    return arrange


def _noise(name: str, function: Function, like: Tensor) -> Tensor:
    """Numbers of mean 0 and variance 1 that are functions of the tensor's name and the function."""
    drawn = uniform(keys(seed_of("growth", name), torch.tensor([function.number])), max(like.numel(), 1))
    return ((2 * drawn - 1) * 3**0.5).to(like.dtype).view(like.shape)


def _held_as_is(recipe: Recipe, script: int) -> tuple[str | None, str | None]:
    """The parameters that are a script's signatures and its codes; None where these are made from others."""
    model = meta_model(recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    signature_UT, code_UC = list(model.scripts)[script].embedding()
    return names.get(id(signature_UT)), names.get(id(code_UC))


def settled(
    before: Whole, growth: Growth, overrides: Sequence[str] = (), learn: tuple[str, ...] | None = None
) -> Growth:
    """The growth as it is saved: with overrides, what is trained from now on, and a schedule that begins again at this step."""
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] not in ("train", "data", "engine"):
            raise UsageError(
                f"{override}: growth changes the model; beside it only train, data and engine may change here"
            )
    recipe = growth.recipe
    schedule = evolve(recipe.train.schedule, begin=before.manifest.step)
    recipe = evolve(recipe, train=evolve(recipe.train, schedule=schedule, learn=learn))
    if recipe.model.tasks is None:
        recipe = evolve(recipe, model=evolve(recipe.model, tasks=dict(before.tasks)))
    return growth._replace(recipe=evolve(recipe_in(dump(recipe), overrides, "the grown recipe"), name=recipe.name))


class Change(NamedTuple):
    """How far answers of the old tasks on the golden inputs have moved: the largest difference of a logit."""

    computed: float  # as the models infer, in fp32
    exact: float  # in fp64, with all functions at work as in training


def save_grown(
    out: Path, before: Whole, growth: Growth, tensors: Tensors, step: int
) -> tuple[Path, Change, dict[Function, float]]:
    """Writes a run folder with one checkpoint, in one step; returns that, how answers have changed, and open pairs.

    What a growth that was killed has left beside that place is removed.
    The latter are those of the golden inputs that added functions would take, in parts of all.
    """
    recipe = growth.recipe
    model, old = build_model(recipe), before.model()
    model.load_state_dict(tensors.averages or tensors.weights)
    golden = golden_batch(model)
    change = Change(_moved(old, model, golden["inputs"]), _moved(old, model, golden["inputs"], exact=True))
    opened = _open(model, growth, golden["inputs"])
    lock = _lock(before, recipe)
    for left in unfinished(out):
        with suppress(RunError), locked(left):  # or another growth is at work there
            shutil.rmtree(left, ignore_errors=True)
    with published(out) as folder, locked(folder):
        snapshot = Snapshot(
            weights=tensors.weights,
            average=tensors.averages,
            training=tensors.training,
            golden=golden,
            recipe=recipe,
            lock=lock,
            step=step,
            seconds=before.manifest.seconds,
            every=before.manifest.every,
            keep=before.manifest.keep,
        )
        place = save_checkpoint(place_of(folder, step, max(recipe.train.steps, step)), snapshot)
        point_to(place)
        write_file(folder / RECIPE, dump(recipe).encode())
        write_file(folder / LOCK, (json.dumps(lock, indent=2) + "\n").encode())
    return out / place.relative_to(folder), change, opened


def _lock(before: Whole, recipe: Recipe) -> dict[str, Any]:
    """What the new checkpoint is made with; data that have not changed are not looked at again."""
    if recipe.data != before.recipe.data:
        return lock_of(recipe, build_data(recipe).open())
    lock = lock_of(recipe, None)
    return lock | {"data": before.lock["data"]} if "data" in before.lock else lock


def _moved(old: Interpreter, new: Interpreter, inputs: Tensor, exact: bool = False) -> float:
    dtype = torch.float64 if exact else torch.float32
    tasks = [task for task in old.tasks if task in new.tasks]
    key_B = keys(0, torch.arange(len(inputs)))
    found = []
    for model in (old, new):
        model.eval().to(dtype)
        with torch.set_grad_enabled(exact):
            found.append(model(inputs.to(dtype), tasks=tasks, key=key_B))
        model.float()
    before, now = found
    return max((before[task] - now[task]).abs().max().item() for task in tasks)


def _open(model: Interpreter, growth: Growth, inputs: Tensor) -> dict[Function, float]:
    """The pairs of each added function that are open, in parts of all: with a gate of 1 its share is its compatibility."""
    gates = [script.gates for script in model.scripts if script.gates is not None]
    kept = [gate.detach().clone() for gate in gates]
    with torch.no_grad():
        for gate in gates:
            gate.fill_(1)
        compatibility = trace(model, inputs).compatibility
        for gate, value in zip(gates, kept, strict=True):
            gate.copy_(value)
    return {
        function: torch.stack(
            [(c_BUV[:, function.number] > 0).float().mean() for c_BUV in compatibility[function.script]]
        )
        .mean()
        .item()
        for function in growth.added
    }
