"""What a trained model is made of, from a checkpoint and its held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ni_framework.checkpoint.golden import golden_difference
from ni_framework.checkpoint.load import inference_weights, read_golden, read_lock, restored
from ni_framework.checkpoint.manifest import AVERAGE, Manifest, read_manifest
from ni_framework.errors import RunError
from ni_framework.evaluation.evaluate import evaluate
from ni_framework.evaluation.function_usage import Chosen, Used, used
from ni_framework.model.compose import build_data
from ni_framework.model.function_similarity import function_distances, nearest, twins
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.script import Script
from ni_framework.nn.kernel import unit

DEAD = 1e-3  # use below which a function is dead; in large scripts this part of an even share, or half of them would be
DEAD_OF_EVEN = 0.02


@frozen
class Nearest:
    """The function whose signature is nearest to another's, and how far both of its vectors lie (`function_distances`)."""

    function: str
    signature_distance: float
    code_distance: float


@frozen
class Use:
    """The mean share of an element that a function takes, on held-out samples; NaN where none tells."""

    overall: float  # over iterations and then tasks
    by_iteration: list[float]
    by_task: dict[str, float]
    open: float  # open pairs, in parts of all
    dead: bool  # whether it takes next to nothing in every iteration of every task


@frozen
class Function:
    """A function of a script."""

    name: str
    use: Use | None  # None where the data are not there
    nearest: Nearest | None  # None for the only function of a script
    twins: list[str]
    gate: float | None = None  # of one that growth has added


@frozen
class ScriptSeen:
    """A script and its functions."""

    name: str
    iterations: int
    functions: list[Function]
    signature_distances: list[list[float]]


@frozen
class Inspection:
    """What there is to know of a checkpoint."""

    checkpoint: str
    recipe: str
    step: int
    seconds: float
    weights: str  # which were looked at: "averaged", or "last"
    parameters: int
    tasks: dict[str, int]  # classes
    samples: int | None  # held-out ones that figures are of; None where the data are not there
    metrics: dict[str, float] | None
    scripts: list[ScriptSeen]
    lock: dict[str, Any]
    golden_samples: int
    golden_differences: list[str]  # empty if the model answers them as it did
    left_out: list[str]


def inspect_checkpoint(folder: Path, samples: int | None = None) -> Inspection:
    """Looks at a checkpoint, and measures its model on `samples` held-out samples (None: all) if the data are there.

    Raises `CheckpointError` for what is no whole checkpoint, `PluginError` where a component is absent or fails.
    """
    manifest = read_manifest(folder)
    model, recipe = restored(folder, manifest)
    golden = read_golden(folder, manifest, model)
    metrics, measured, number, left_out = None, [None] * len(model.scripts), None, []
    try:
        split = build_data(recipe).open()["test"]
    except RunError as error:
        left_out.append(f"use and metrics: {error}")
    else:
        split = split if samples is None else Chosen(split, samples)
        number, metrics, measured = len(split), evaluate(model, split), used(model, split)
    return Inspection(
        checkpoint=str(folder),
        recipe=manifest.name,
        step=manifest.step,
        seconds=manifest.seconds,
        weights=_weights(manifest),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tasks=dict(model.tasks),
        samples=number,
        metrics=metrics,
        scripts=_scripts(model, measured),
        lock=read_lock(folder, manifest),
        golden_samples=len(golden["inputs"]),
        golden_differences=golden_difference(model, golden),
        left_out=left_out,
    )


def is_dead(use_ILU: Tensor) -> Tensor:
    """Which functions take next to nothing of any task's elements in any iteration, [U]; what no sample tells does not count."""
    limit = min(DEAD, DEAD_OF_EVEN / use_ILU.shape[-1])
    return use_ILU.nan_to_num().flatten(0, 1).amax(dim=0) < limit


def _weights(manifest: Manifest) -> str:
    return "averaged" if inference_weights(manifest) == AVERAGE else "last"


def _scripts(model: Interpreter, measured: Sequence[Used | None]) -> list[ScriptSeen]:
    pairs = zip(model.scripts, measured, strict=True)
    return [_script(f"script{number}", script, of, model.tasks) for number, (script, of) in enumerate(pairs)]


def _script(name: str, script: Script, measured: Used | None, tasks: Iterable[str]) -> ScriptSeen:
    with torch.no_grad():
        signature_UT, code_UC = script.embedding()
        signature_UU, code_UU = function_distances(unit(signature_UT)), function_distances(code_UC)
    names = [f"f{number}" for number in range(len(signature_UU))]
    uses = [None] * len(names) if measured is None else _uses(measured, tasks)
    same: dict[str, list[str]] = {name: [] for name in names}
    for one, other in twins(signature_UU, code_UU):
        same[names[one]].append(names[other])
        same[names[other]].append(names[one])
    near_U = nearest(signature_UU)
    nears: list[Nearest | None] = [None] * len(names)
    if near_U is not None:
        places = list(enumerate(near_U.tolist()))
        nears = [Nearest(names[place[1]], signature_UU[place].item(), code_UU[place].item()) for place in places]
    gates: list[float | None] = [None] * len(names)
    if script.gates is not None:
        gates[script.generations[0] :] = script.gates.tolist()
    told = zip(names, uses, nears, same.values(), gates, strict=True)
    functions = [Function(*of) for of in told]
    return ScriptSeen(name, script.iterations, functions, signature_UU.tolist())


def _uses(measured: Used, tasks: Iterable[str]) -> list[Use]:
    use_ILU, open_ILU = measured.use_ILU, measured.open_ILU
    by_iteration, by_task = use_ILU.nanmean(dim=1).T.tolist(), use_ILU.mean(dim=0).T.tolist()
    overall, opened = use_ILU.nanmean(dim=(0, 1)).tolist(), open_ILU.nanmean(dim=(0, 1)).tolist()
    by_name = [dict(zip(tasks, of, strict=True)) for of in by_task]
    return [Use(*of) for of in zip(overall, by_iteration, by_name, opened, is_dead(use_ILU).tolist(), strict=True)]
