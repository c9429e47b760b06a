"""Growth as it is asked for: what a command says, carried out on a checkpoint in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from torch import Tensor

from ni_framework.checkpoint.golden_check import changes, words
from ni_framework.checkpoint.load import restored
from ni_framework.checkpoint.loaded_checkpoint import Whole
from ni_framework.checkpoint.lockfile import locked
from ni_framework.checkpoint.manifest import read_manifest
from ni_framework.errors import CheckpointError, RunError, UsageError
from ni_framework.evaluation.evaluate import evaluate
from ni_framework.evaluation.function_usage import used
from ni_framework.growth import plan as growing
from ni_framework.growth.export import Delta, Functions, functions_of, read_parcel, weights_of
from ni_framework.growth.grown_checkpoint import (
    Init,
    Tensors,
    arranged,
    brought,
    forgotten,
    grown_tensors,
    save_grown,
    settled,
)
from ni_framework.growth.plan import Growth
from ni_framework.growth.transplant import Function, Outline, outline_of
from ni_framework.model.compose import build_data, meta_model
from ni_framework.options import Choice
from ni_framework.recipe import Recipe, dump, plain_values
from ni_framework.recipe.dump import dump_values
from ni_framework.registry import recipe_in
from ni_framework.utils.atomic_files import check_absent

LEARN = {"none": None, "old": ("grown",), "all-but-routing": ("grown", "routing")}


@frozen(kw_only=True)
class Asked:
    """What `ni grow` was asked for, as its options say it."""

    overrides: tuple[str, ...] = ()
    add: int | None = None
    init: str = "random"
    body: str | None = None
    merge: str | None = None
    imported: str | None = None
    tasks: str | None = None
    remove: str | None = None
    below: float | None = None
    iterations: int | None = None
    script: int | None = None
    freeze: str = "none"


def grow(
    checkpoint: str | Path, out: Path, asked: Asked, say: Callable[[str], object] = lambda text: None
) -> dict[str, Any]:
    """Carries growth out, and returns what `ni grow --json` prints.

    Raises `UsageError` for what makes no sense for this model, before anything is written.
    """
    check_absent(out, "folder")
    before = Whole.of(checkpoint)
    recipe = before.recipe
    if asked.imported and isinstance(delta := read_parcel(Path(asked.imported)), Delta):
        if asked != Asked(imported=asked.imported):
            raise UsageError(
                f"{asked.imported}: is a delta, which makes a whole model of its base; give no other option with it"
            )
        return _saved(out, before, *_of_delta(before, delta, asked.imported), delta.step, asked, say)
    growth = begun = growing.begun(recipe)
    scripts = range(len(recipe.model.program)) if asked.script is None else [growing.only_script(recipe, asked.script)]
    tasks = _tasks(asked.tasks)
    init = _init(asked, recipe)
    gone = growing.functions_named(asked.remove.split(","), recipe, asked.script) if asked.remove else []
    if asked.below is not None:
        gone += _little_used(before, asked.below, scripts, say)
    if gone:
        growth = growing.remove(growth, gone)
    if tasks:
        growth = growing.with_tasks(growth, tasks, before.tasks)
    arrange: list[tuple[list[Function], Functions, object]] = []
    for source, parcel in _parcels(asked, recipe):
        if changed := changes(parcel.lock):
            say(f"{source}: its functions were trained by other code: {words(changed)}")
        place = growing.only_script(recipe, asked.script)
        _check_sizes(parcel, recipe, place, source)
        first = growth.recipe.model.program[place].num_functions
        growth = growing.add(growth, len(parcel.names), [place], _body_of(parcel, before, place), tuple(tasks) or None)
        arrange.append(([Function(place, first + n) for n in range(len(parcel.names))], parcel, source))
    if asked.add:
        growth = growing.add(growth, asked.add, scripts, _body(asked.body, recipe), tuple(tasks) or None)
    if asked.iterations:
        growth = growing.with_iterations(growth, asked.iterations, scripts)
    if growth == begun and not asked.overrides:
        if asked.below is not None:
            raise UsageError(f"each function takes at least {asked.below:.2%} of an element, so that none is removed")
        raise UsageError("nothing to do; say what: --add, --remove, --tasks, --iterations, --merge or --import")
    growth = settled(before, growth, asked.overrides, LEARN[asked.freeze])
    if init.like:
        numbers = {was: now for now, was in growth.origins.items()}
        if gone := [f"f{like.number}" for like in init.like if like not in numbers]:
            raise UsageError(f"--init {asked.init}: {gone[0]} is removed; name functions that stay")
        init = init._replace(like=tuple(numbers[like] for like in init.like))

    def arranging(weights: dict[str, Tensor], outline: Outline) -> None:
        for step in (arranged(growth, init), *(brought(growth, *of) for of in arrange)):
            step(weights, outline)

    tensors = grown_tensors(before, growth, arranging)
    return _saved(out, before, growth, tensors, before.manifest.step, asked, say)


def _saved(
    out: Path, before: Whole, growth: Growth, tensors: Tensors, step: int, asked: Asked, say: Callable[[str], object]
) -> dict[str, Any]:
    recipe = before.recipe
    place, change, opened = save_grown(out, before, growth, tensors, step)
    for function, part in opened.items():
        if not part:
            say(
                f"script {function.script}, f{function.number} takes no element of the golden batch, and learns nothing where "
                "it takes none; use --init near=F, or a larger model.router.truncation"
            )
    document = {
        "run": str(out),
        "checkpoint": str(place),
        "parameters": {"before": _count(recipe), "after": _count(growth.recipe)},
        "functions": [
            [old.num_functions, new.num_functions]
            for old, new in zip(recipe.model.program, growth.recipe.model.program, strict=True)
        ],
        "change": change._asdict(),
        "added": [{"script": of.script, "function": of.number, "open": part} for of, part in opened.items()],
    }
    if asked.remove or asked.below is not None or asked.iterations:
        document |= _held_out(before, place, say)
    return document


def _of_delta(before: Whole, delta: Delta, source: str) -> tuple[Growth, Tensors]:
    """The model that a delta makes of its base; nothing is remembered of its training."""
    origins = {(of.kind, of.name): (of.distribution, of.version) for of in locked(delta.lock).values()}
    recipe = evolve(recipe_in(delta.recipe, (), source, origins), name=delta.name)
    growth = Growth(recipe, {function: function for function in growing.functions_of(recipe)})
    shapes = {name: list(value.shape) for name, value in meta_model(recipe).state_dict().items()}
    if delta.shapes != shapes:  # before anything of a size that a file says is made
        raise CheckpointError(f"{source}: its tensors are not those of its own recipe's model; get the file again")
    weights = weights_of(delta, before, source)
    return growth, Tensors(weights, None, dict(forgotten(recipe)))


def _parcels(asked: Asked, recipe: Recipe) -> Iterator[tuple[str, Functions]]:
    """The functions that are to be brought in, those of one body at a time."""
    if asked.imported:
        parcel = read_parcel(Path(asked.imported))
        assert isinstance(parcel, Functions)
        yield asked.imported, parcel
    if asked.merge:
        path, colon, names = asked.merge.rpartition(":") if not Path(asked.merge).exists() else (asked.merge, "", "")
        other = Whole.of(path if colon else asked.merge)
        place = asked.script if len(other.recipe.model.program) > 1 else 0
        place = growing.only_script(other.recipe, place)
        number = other.recipe.model.program[place].num_functions
        wanted = names.split(",") if colon else [f"f{n}" for n in range(number)]
        functions = growing.functions_named(wanted, other.recipe, place)
        bodies = outline_of(other.recipe).own_bodies
        for body in dict.fromkeys(bodies.get(function) for function in functions):
            yield asked.merge, functions_of(other, [function for function in functions if bodies.get(function) == body])


def _check_sizes(parcel: Functions, recipe: Recipe, place: int, source: str) -> None:
    script = recipe.model.program[place]
    here = {"width": recipe.model.width, "code": script.code, "type": script.type}
    for name, number in here.items():
        if parcel.sizes.get(name) != number:
            raise CheckpointError(
                f"{source}: its functions have a {name} of {parcel.sizes.get(name)}, those of this model {number}; "
                "only functions of equal sizes can be brought in"
            )


def _body_of(parcel: Functions, before: Whole, place: int) -> Choice | None:
    """The body that functions bring with them; None where it is this script's own, with the same weights."""
    origins = {(of.kind, of.name): (of.distribution, of.version) for of in locked(parcel.lock).values()}
    values = plain_values(before.recipe)
    values["model"]["body"] = parcel.body
    choice = recipe_in(dump_values(values), (), "the functions' body", origins).model.body
    prefix = f"scripts.{place}.body."
    own = {name.removeprefix(prefix): value for name, value in before.inferring.items() if name.startswith(prefix)}
    given = {name.removeprefix("body/"): value for name, value in parcel.tensors.items() if name.startswith("body/")}
    same = own.keys() == given.keys() and all(own[name].equal(value) for name, value in given.items())
    return None if same and choice == before.recipe.model.program[place].body else choice


def _little_used(before: Whole, below: float, scripts: Iterable[int], say: Callable[[str], object]) -> list[Function]:
    """The functions of these scripts that take less than a share `below` of an element in any task's mean, on held-out data.

    Those that belong to tasks of which the data have nothing stay: nothing is known of their use.
    """
    found = []
    data = build_data(before.recipe)
    uses = used(before.model(), data.open()["test"])
    for script in scripts:
        use_U = uses[script].use_ILU.mean(dim=0).nan_to_num(0).amax(dim=0).tolist()  # what one task needs stays
        for grown, numbers in before.recipe.model.program[script].members:
            measured = grown is None or grown.tasks is None or not data.tasks.keys().isdisjoint(grown.tasks)
            for number in numbers if measured else ():
                if use_U[number] < below:
                    say(f"script {script}, f{number} takes {use_U[number]:.2%} of an element, and is removed")
                    found.append(Function(script, number))
    return found


def _held_out(before: Whole, place: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """The metrics on held-out data of the old model and the new one."""
    try:
        split = build_data(before.recipe).open()["test"]
    except RunError as error:
        say(f"not measured on held-out data: {error}")
        return {}
    old = evaluate(restored(before.folder, before.manifest)[0], split)
    new = evaluate(restored(place, read_manifest(place))[0], split)
    return {"held_out": {name: [value, new[name]] for name, value in old.items()}}


def _count(recipe: Recipe) -> int:
    return sum(parameter.numel() for parameter in meta_model(recipe).parameters())


def _tasks(text: str | None) -> dict[str, int]:
    tasks: dict[str, int] = {}
    for item in text.split(",") if text else ():
        name, _, number = item.partition(":")
        if not name or not number.isdecimal() or not int(number) or name in tasks:
            raise UsageError(f"--tasks {item}: expected a new name and its number of classes, as in letters:26")
        tasks[name] = int(number)
    return tasks


def _init(asked: Asked, recipe: Recipe) -> Init:
    use, _, names = asked.init.partition("=")
    if asked.init == "random":
        return Init()
    if use not in ("near", "mirror") or not names:
        raise UsageError(f"--init {asked.init}: expected random, near=F,... or mirror=F,..., as in near=f0,f1")
    return Init(use, tuple(growing.functions_named(names.split(","), recipe, asked.script)))  # pyright: ignore[reportArgumentType]


def _body(text: str | None, recipe: Recipe) -> Choice | None:
    """The body that a name, or a name with options as in a recipe, says."""
    return None if text is None else recipe_in(dump(recipe), [f"model.body={text}"], "the recipe").model.body
