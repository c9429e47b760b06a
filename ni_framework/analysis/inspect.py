"""Describes a trained model: its functions and their use, its metrics and its origin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.checkpoint.golden import compare_golden
from ni_framework.checkpoint.load import inference_weights_file, load_unchecked, read_golden, read_lockfile
from ni_framework.checkpoint.manifest import EMA_WEIGHTS_FILE, Manifest, read_manifest
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.errors import RunError
from ni_framework.evaluation.evaluate import evaluate_model
from ni_framework.evaluation.function_usage import FunctionUsage, SampledSplit, measure_function_usage
from ni_framework.model.compose import build_data
from ni_framework.model.function_similarity import function_distances, near_duplicates, nearest_functions
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.script import Script
from ni_framework.nn.kernel import to_unit_length

# A function is dead if its use is below this limit.
DEAD_USE = 1e-3
# In scripts with many functions an equal share is below the limit already; there a function is dead below this part of it.
DEAD_FRACTION_OF_EVEN_SHARE = 0.02


@frozen
class NearestFunction:
    """The function with the nearest signature, and the distances of signatures and of codes (`function_distances`)."""

    function: str
    signature_distance: float
    code_distance: float


@frozen
class FunctionUse:
    """The mean share of an element that a function takes on held-out samples; NaN for a task without samples.

    Attributes:
        overall: The mean over iterations and tasks.
        by_iteration: The mean over tasks in each iteration.
        by_task: The mean over iterations for each task.
        open: The fraction of the function's pairs that are open.
        dead: Whether the share is almost 0 in every iteration for every task (`is_dead`).
    """

    overall: float
    by_iteration: list[float]
    by_task: dict[str, float]
    open: float
    dead: bool


@frozen
class FunctionReport:
    """A function of a script.

    Attributes:
        name: The name, such as "f0".
        use: How much of the elements it takes; None if the data are not available.
        nearest: The function with the nearest signature; None if the script has no other function.
        twins: The functions whose signature and code are almost the same.
        gate: The gate of a function that `ni grow` has added; None for other functions.
    """

    name: str
    use: FunctionUse | None
    nearest: NearestFunction | None
    twins: list[str]
    gate: float | None = None


@frozen
class ScriptReport:
    """A script and its functions."""

    name: str
    iterations: int
    functions: list[FunctionReport]
    signature_distances: list[list[float]]


@frozen
class CheckpointReport:
    """The description of a checkpoint. The attributes are keys of the document that `ni inspect --json` prints.

    Attributes:
        checkpoint: The folder of the checkpoint.
        recipe: The name of the recipe.
        step: The step at which it was saved.
        seconds: The training time up to this step.
        weights: The weights that were inspected: "averaged" (the EMA weights) or "last".
        parameters: The number of parameters.
        tasks: The number of classes of each task.
        samples: The number of held-out samples that were used; None if the data are not available.
        metrics: The metrics on these samples; None if the data are not available.
        scripts: The scripts and their functions.
        lock: The lockfile.
        golden_samples: The number of samples in the golden batch.
        golden_differences: Differences from the saved outputs on the golden batch; empty if there are none.
        left_out: Reasons why something was not measured.
    """

    checkpoint: str
    recipe: str
    step: int
    seconds: float
    weights: str
    parameters: int
    tasks: dict[str, int]
    samples: int | None
    metrics: dict[str, float] | None
    scripts: list[ScriptReport]
    lock: dict[str, Any]
    golden_samples: int
    golden_differences: list[str]
    left_out: list[str]


def inspect_checkpoint(checkpoint: str | PathLike[str], samples: int | None = None) -> CheckpointReport:
    """Reports what a trained model is made of, and measures it on held-out samples if the data are available.

    Args:
        checkpoint: A checkpoint or a run folder, whose newest checkpoint is used.
        samples: How many held-out samples to use; all of them if None.

    Returns:
        What `ni inspect` prints: functions with their use, metrics, parameters, lockfile.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged.
        PluginError: A component of the checkpoint is missing or fails.
    """
    folder = find_checkpoint(checkpoint)
    manifest = read_manifest(folder)
    model, recipe = load_unchecked(folder, manifest)
    golden = read_golden(folder, manifest, model)
    num_samples, metrics, left_out = None, None, []
    usages: Sequence[FunctionUsage | None] = [None] * len(model.scripts)
    try:
        split = build_data(recipe).open()["test"]
    except RunError as error:
        left_out.append(f"use and metrics: {error}")
    else:
        split = split if samples is None else SampledSplit(split, samples)
        num_samples, metrics = len(split), evaluate_model(model, split)
        usages = measure_function_usage(model, split)
    return CheckpointReport(
        checkpoint=str(folder),
        recipe=manifest.name,
        step=manifest.step,
        seconds=manifest.seconds,
        weights=_weights_kind(manifest),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tasks=dict(model.tasks),
        samples=num_samples,
        metrics=metrics,
        scripts=_script_reports(model, usages),
        lock=read_lockfile(folder, manifest),
        golden_samples=len(golden["inputs"]),
        golden_differences=compare_golden(model, golden),
        left_out=left_out,
    )


def is_dead(use_ILU: Tensor) -> Tensor:
    """Returns which functions have almost no use in any iteration for any task, [U]; tasks without samples do not count."""
    limit = min(DEAD_USE, DEAD_FRACTION_OF_EVEN_SHARE / use_ILU.shape[-1])
    return use_ILU.nan_to_num().flatten(0, 1).amax(dim=0) < limit


def _weights_kind(manifest: Manifest) -> str:
    return "averaged" if inference_weights_file(manifest) == EMA_WEIGHTS_FILE else "last"


def _script_reports(model: Interpreter, usages: Sequence[FunctionUsage | None]) -> list[ScriptReport]:
    return [
        _script_report(f"script{number}", script, usage, model.tasks)
        for number, (script, usage) in enumerate(zip(model.scripts, usages, strict=True))
    ]


def _script_report(name: str, script: Script, usage: FunctionUsage | None, tasks: Iterable[str]) -> ScriptReport:
    with torch.no_grad():
        signature_UT, code_UC = script.embedding()
        signature_UU, code_UU = function_distances(to_unit_length(signature_UT)), function_distances(code_UC)
    names = [f"f{number}" for number in range(len(signature_UU))]
    uses = [None] * len(names) if usage is None else _function_uses(usage, tasks)
    duplicates: dict[str, list[str]] = {name: [] for name in names}
    for one, other in near_duplicates(signature_UU, code_UU):
        duplicates[names[one]].append(names[other])
        duplicates[names[other]].append(names[one])
    nearest_reports: list[NearestFunction | None] = [None] * len(names)
    if (nearest_U := nearest_functions(signature_UU)) is not None:
        nearest_reports = [
            NearestFunction(names[nearest], signature_UU[number, nearest].item(), code_UU[number, nearest].item())
            for number, nearest in enumerate(nearest_U.tolist())
        ]
    gates: list[float | None] = [None] * len(names)
    if script.gates is not None:
        gates[script.generations[0] :] = script.gates.tolist()
    columns = zip(names, uses, nearest_reports, duplicates.values(), gates, strict=True)
    functions = [FunctionReport(*values) for values in columns]
    return ScriptReport(name, script.iterations, functions, signature_UU.tolist())


def _function_uses(usage: FunctionUsage, tasks: Iterable[str]) -> list[FunctionUse]:
    use_ILU, open_ILU = usage.use_ILU, usage.open_ILU
    by_iteration, by_task = use_ILU.nanmean(dim=1).T.tolist(), use_ILU.mean(dim=0).T.tolist()
    overall, open_fractions = use_ILU.nanmean(dim=(0, 1)).tolist(), open_ILU.nanmean(dim=(0, 1)).tolist()
    by_task_name = [dict(zip(tasks, shares, strict=True)) for shares in by_task]
    return [
        FunctionUse(*values)
        for values in zip(overall, by_iteration, by_task_name, open_fractions, is_dead(use_ILU).tolist(), strict=True)
    ]
