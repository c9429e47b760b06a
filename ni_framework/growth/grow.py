"""Growth from the options of `ni grow`: plans it, computes the new weights, and saves a new run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from attrs import evolve, frozen

from ni_framework.checkpoint.golden_check import find_source_changes, format_changes
from ni_framework.checkpoint.load import load_unchecked
from ni_framework.checkpoint.loaded_checkpoint import LoadedCheckpoint
from ni_framework.checkpoint.lockfile import locked_components
from ni_framework.checkpoint.manifest import read_manifest
from ni_framework.errors import CheckpointError, RunError, UsageError
from ni_framework.evaluation.evaluate import evaluate_model
from ni_framework.evaluation.function_usage import measure_function_usage
from ni_framework.growth import plan as growing
from ni_framework.growth.export import FunctionBundle, WeightDelta, apply_delta, bundle_functions, load_export
from ni_framework.growth.grown_checkpoint import (
    GrownTensors,
    finalize_recipe,
    fresh_training_state,
    grow_tensors,
    save_grown_run,
)
from ni_framework.growth.initialize import FunctionImport, FunctionInit, init_from_export, init_near
from ni_framework.growth.plan import GrowthPlan
from ni_framework.growth.transplant import FunctionRef, infer_function_rows
from ni_framework.model.compose import build_data, build_meta_model
from ni_framework.options import ComponentSpec
from ni_framework.recipe import Recipe, dump, to_plain_values
from ni_framework.recipe.dump import dump_values
from ni_framework.registry import load_recipe_text
from ni_framework.utils.atomic_files import check_absent
from ni_framework.utils.prefixes import strip_prefix

TRAINABLE_BY_FREEZE = {"none": None, "old": ("grown",), "all-but-routing": ("grown", "routing")}


@frozen(kw_only=True)
class GrowOptions:
    """The options of `ni grow`, as given on the command line."""

    # Overrides of the recipe, as "train.steps=200".
    overrides: tuple[str, ...] = ()
    # The number of functions to add.
    add: int | None = None
    # How added functions begin: "random", "near=f0,f1" or "mirror=f0,f1".
    init: str = "random"
    # The body of added functions, as in a recipe; None means the script's own body.
    body: str | None = None
    # A checkpoint whose functions are added, as "runs/other" or "runs/other:f0,f3".
    merge: str | None = None
    # A file of `ni export`.
    imported: str | None = None
    # New tasks, as "letters:26".
    tasks: str | None = None
    # Functions to remove, as "f0,f3".
    remove: str | None = None
    # Functions that take less than this fraction of an element are removed.
    below: float | None = None
    iterations: int | None = None
    # The number of the script; None means all scripts, or the only one.
    script: int | None = None
    # A key of `TRAINABLE_BY_FREEZE`.
    freeze: str = "none"


class _ParsedOptions(NamedTuple):
    """The options that have to be parsed, checked against the model."""

    scripts: Sequence[int]
    tasks: dict[str, int]
    init: FunctionInit
    removed: list[FunctionRef]


def grow_checkpoint(
    checkpoint: str | Path, out: Path, options: GrowOptions, report: Callable[[str], object] = lambda text: None
) -> dict[str, Any]:
    """Makes a new run folder with a grown model from a checkpoint.

    Args:
        checkpoint: a checkpoint or a run folder.
        out: the new run folder.
        options: what grows.
        report: called with each message for the user.

    Returns:
        The document that `ni grow --json` prints.

    Raises:
        UsageError: an option does not fit this model; nothing is written.
    """
    check_absent(out, "folder")
    before = LoadedCheckpoint.load(checkpoint)
    if options.imported and isinstance(delta := load_export(Path(options.imported)), WeightDelta):
        if options != GrowOptions(imported=options.imported):
            raise UsageError(
                f"{options.imported}: is a delta, which makes a full model of its base; give no other option with it"
            )
        plan, tensors = _plan_from_delta(before, delta, options.imported)
        return _save_and_report(out, before, plan, tensors, delta.step, options, report)
    parsed = _parse_options(options, before, report)
    plan, imports = _plan_growth(before, options, parsed, report)
    plan = finalize_recipe(before, plan, options.overrides, TRAINABLE_BY_FREEZE[options.freeze])
    init = _renumber_references(parsed.init, plan, options.init)
    initializers = [
        partial(init_near, plan=plan, init=init),
        *(partial(init_from_export, plan=plan, function_import=function_import) for function_import in imports),
    ]
    tensors = grow_tensors(before, plan, initializers)
    return _save_and_report(out, before, plan, tensors, before.manifest.step, options, report)


def _parse_options(options: GrowOptions, before: LoadedCheckpoint, report: Callable[[str], object]) -> _ParsedOptions:
    """Parses scripts, tasks, initial values and removed functions; functions of little use are measured here."""
    recipe = before.recipe
    scripts = range(len(recipe.model.program))
    if options.script is not None:
        scripts = [growing.resolve_script(recipe, options.script)]
    tasks = _parse_tasks(options.tasks)
    init = _parse_init(options, recipe)
    removed = growing.parse_functions(options.remove.split(","), recipe, options.script) if options.remove else []
    if options.below is not None:
        removed += _find_little_used(before, options.below, scripts, report)
    return _ParsedOptions(scripts, tasks, init, removed)


def _plan_growth(
    before: LoadedCheckpoint, options: GrowOptions, parsed: _ParsedOptions, report: Callable[[str], object]
) -> tuple[GrowthPlan, list[FunctionImport]]:
    """Returns the plan of the growth, and the functions that get values of an export."""
    plan = unchanged_plan = growing.identity_plan(before.recipe)
    function_tasks = tuple(parsed.tasks) or None
    if parsed.removed:
        plan = growing.remove_functions(plan, parsed.removed)
    if parsed.tasks:
        plan = growing.with_tasks(plan, parsed.tasks, before.tasks)
    imports = []
    for source, bundle in _load_bundles(options, before.recipe):
        if changed := find_source_changes(bundle.lock):
            report(f"{source}: its functions were trained by other code: {format_changes(changed)}")
        plan, function_import = _plan_import(plan, before, bundle, source, options.script, function_tasks)
        imports.append(function_import)
    if options.add:
        body = _parse_body(options.body, before.recipe)
        plan = growing.add_functions(plan, options.add, parsed.scripts, body, function_tasks)
    if options.iterations:
        plan = growing.with_iterations(plan, options.iterations, parsed.scripts)
    if plan == unchanged_plan and not options.overrides:
        if options.below is not None:
            raise UsageError(f"each function takes at least {options.below:.2%} of an element, so that none is removed")
        raise UsageError("nothing to do; give --add, --remove, --tasks, --iterations, --merge or --import")
    return plan, imports


def _plan_import(
    plan: GrowthPlan,
    before: LoadedCheckpoint,
    bundle: FunctionBundle,
    source: str,
    script: int | None,
    tasks: tuple[str, ...] | None,
) -> tuple[GrowthPlan, FunctionImport]:
    """Returns the plan with the functions of a bundle added, and which functions they are."""
    place = growing.resolve_script(before.recipe, script)
    _check_bundle_sizes(bundle, before.recipe, place, source)
    first, number = plan.recipe.model.program[place].num_functions, len(bundle.names)
    plan = growing.add_functions(plan, number, [place], _imported_body(bundle, before, place), tasks)
    return plan, FunctionImport([FunctionRef(place, first + n) for n in range(number)], bundle, source)


def _renumber_references(init: FunctionInit, plan: GrowthPlan, option: str) -> FunctionInit:
    """Returns the initialization with its reference functions numbered as in the grown model."""
    new_refs = {old: new for new, old in plan.origins.items()}
    if removed := [reference for reference in init.references if reference not in new_refs]:
        raise UsageError(f"--init {option}: f{removed[0].number} is removed; name functions that stay")
    return init._replace(references=tuple(new_refs[reference] for reference in init.references))


def _save_and_report(
    out: Path,
    before: LoadedCheckpoint,
    plan: GrowthPlan,
    tensors: GrownTensors,
    step: int,
    options: GrowOptions,
    report: Callable[[str], object],
) -> dict[str, Any]:
    """Saves the grown model, reports functions that take nothing, and returns the document of `ni grow --json`."""
    recipe = before.recipe
    place, drift, open_fractions = save_grown_run(out, before, plan, tensors, step)
    for function, fraction in open_fractions.items():
        if not fraction:
            report(
                f"script {function.script}, f{function.number} takes no element of the golden batch, and gets no gradient where "
                "it takes none; use --init near=F, or a larger model.router.truncation"
            )
    document = {
        "run": str(out),
        "checkpoint": str(place),
        "parameters": {"before": _count_parameters(recipe), "after": _count_parameters(plan.recipe)},
        "functions": [
            [old.num_functions, new.num_functions]
            for old, new in zip(recipe.model.program, plan.recipe.model.program, strict=True)
        ],
        "change": drift._asdict(),
        "added": [
            {"script": function.script, "function": function.number, "open": fraction}
            for function, fraction in open_fractions.items()
        ],
    }
    if options.remove or options.below is not None or options.iterations:
        document |= _compare_on_held_out(before, place, report)
    return document


def _plan_from_delta(before: LoadedCheckpoint, delta: WeightDelta, source: str) -> tuple[GrowthPlan, GrownTensors]:
    """Returns the plan and the tensors of the model that a delta makes of its base; its training state is fresh."""
    recipe = evolve(load_recipe_text(delta.recipe, (), source, _component_origins(delta.lock)), name=delta.name)
    plan = GrowthPlan(recipe, {function: function for function in growing.list_functions(recipe)})
    shapes = {name: list(value.shape) for name, value in build_meta_model(recipe).state_dict().items()}
    # Compared before anything is allocated, because the sizes come from a file.
    if delta.shapes != shapes:
        raise CheckpointError(f"{source}: its tensors are not those of its own recipe's model; get the file again")
    weights = apply_delta(delta, before, source)
    return plan, GrownTensors(weights, None, dict(fresh_training_state(recipe)))


def _load_bundles(options: GrowOptions, recipe: Recipe) -> Iterator[tuple[str, FunctionBundle]]:
    """Yields the functions to import, those of one body at a time, with the file or checkpoint they come from."""
    if options.imported:
        bundle = load_export(Path(options.imported))
        assert isinstance(bundle, FunctionBundle)
        yield options.imported, bundle
    if options.merge:
        path, colon, names = (
            options.merge.rpartition(":") if not Path(options.merge).exists() else (options.merge, "", "")
        )
        other = LoadedCheckpoint.load(path if colon else options.merge)
        # A checkpoint with a single script can be merged into any script.
        place = growing.resolve_script(other.recipe, options.script if len(other.recipe.model.program) > 1 else 0)
        number = other.recipe.model.program[place].num_functions
        names_to_import = names.split(",") if colon else [f"f{n}" for n in range(number)]
        functions = growing.parse_functions(names_to_import, other.recipe, place)
        bodies = infer_function_rows(other.recipe).own_body_paths
        for body in dict.fromkeys(bodies.get(function) for function in functions):
            yield (
                options.merge,
                bundle_functions(other, [function for function in functions if bodies.get(function) == body]),
            )


def _check_bundle_sizes(bundle: FunctionBundle, recipe: Recipe, place: int, source: str) -> None:
    script = recipe.model.program[place]
    expected_sizes = {"width": recipe.model.width, "code": script.code, "type": script.type}
    for name, number in expected_sizes.items():
        if bundle.sizes.get(name) != number:
            raise CheckpointError(
                f"{source}: its functions have a {name} of {bundle.sizes.get(name)}, those of this model {number}; "
                "only functions of equal sizes can be imported"
            )


def _imported_body(bundle: FunctionBundle, before: LoadedCheckpoint, place: int) -> ComponentSpec | None:
    """Returns the body of imported functions; None if it is equal to the script's own, with the same weights."""
    values = to_plain_values(before.recipe)
    values["model"]["body"] = bundle.body
    spec = load_recipe_text(dump_values(values), (), "the functions' body", _component_origins(bundle.lock)).model.body
    own = strip_prefix(f"scripts.{place}.body.", before.inference_weights)
    imported = strip_prefix("body/", bundle.tensors)
    same = own.keys() == imported.keys() and all(own[name].equal(value) for name, value in imported.items())
    return None if same and spec == before.recipe.model.program[place].body else spec


def _find_little_used(
    before: LoadedCheckpoint, below: float, scripts: Iterable[int], report: Callable[[str], object]
) -> list[FunctionRef]:
    """Returns the functions that take less than the fraction `below` of an element on held-out data, in the mean of every task.

    Functions of tasks without data are kept, because their use cannot be measured.
    """
    functions = []
    data = build_data(before.recipe)
    uses = measure_function_usage(before.build_inference_model(), data.open()["test"])
    for script in scripts:
        # The largest use by any task counts: a function that one task needs is kept.
        use_U = uses[script].use_ILU.mean(dim=0).nan_to_num(0).amax(dim=0).tolist()
        for grown, numbers in before.recipe.model.program[script].generation_ranges:
            measured = grown is None or grown.tasks is None or not data.tasks.keys().isdisjoint(grown.tasks)
            for number in numbers if measured else ():
                if use_U[number] < below:
                    report(f"script {script}, f{number} takes {use_U[number]:.2%} of an element, and is removed")
                    functions.append(FunctionRef(script, number))
    return functions


def _compare_on_held_out(before: LoadedCheckpoint, checkpoint: Path, report: Callable[[str], object]) -> dict[str, Any]:
    """Returns the metrics of the old and the new model on held-out data."""
    try:
        split = build_data(before.recipe).open()["test"]
    except RunError as error:
        report(f"not measured on held-out data: {error}")
        return {}
    old = evaluate_model(load_unchecked(before.folder, before.manifest)[0], split)
    new = evaluate_model(load_unchecked(checkpoint, read_manifest(checkpoint))[0], split)
    return {"held_out": {name: [value, new[name]] for name, value in old.items()}}


def _component_origins(lock: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    """Returns {(kind, name): (distribution, version)} of the components that a lockfile records."""
    return {
        (component.kind, component.name): (component.distribution, component.version)
        for component in locked_components(lock).values()
    }


def _count_parameters(recipe: Recipe) -> int:
    return sum(parameter.numel() for parameter in build_meta_model(recipe).parameters())


def _parse_tasks(text: str | None) -> dict[str, int]:
    tasks: dict[str, int] = {}
    for item in text.split(",") if text else ():
        name, _, number = item.partition(":")
        if not name or not number.isdecimal() or not int(number) or name in tasks:
            raise UsageError(f"--tasks {item}: expected a new name and its number of classes, as in letters:26")
        tasks[name] = int(number)
    return tasks


def _parse_init(options: GrowOptions, recipe: Recipe) -> FunctionInit:
    use, _, names = options.init.partition("=")
    if options.init == "random":
        return FunctionInit()
    if use not in ("near", "mirror") or not names:
        raise UsageError(f"--init {options.init}: expected random, near=F,... or mirror=F,..., as in near=f0,f1")
    return FunctionInit(use, tuple(growing.parse_functions(names.split(","), recipe, options.script)))  # pyright: ignore[reportArgumentType]


def _parse_body(text: str | None, recipe: Recipe) -> ComponentSpec | None:
    """Returns the body for a name, or for a name with options as in a recipe; None for None."""
    return None if text is None else load_recipe_text(dump(recipe), [f"model.body={text}"], "the recipe").model.body
