"""What the commands do, as functions: evaluate and grow from a checkpoint's path. `ni_framework` exports them."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.checkpoint.run_dir import find_checkpoint
from ni_framework.evaluation.evaluate import evaluate_model
from ni_framework.growth.grow import GrowOptions, grow_checkpoint
from ni_framework.model.compose import build_data


def evaluate(checkpoint: str | PathLike[str], overrides: Sequence[str] = ()) -> dict[str, float]:
    """Evaluates the model of a checkpoint on the held-out split of its data, as `ni eval` does.

    Args:
        checkpoint: A checkpoint or a run folder, whose newest checkpoint is used.
        overrides: Changes of the recipe that leave the parameters as they are, such as "model.iterations=8".

    Returns:
        Metrics by name: "test/loss", "test/accuracy" and so on, means over samples and then over tasks; with several tasks
        also "test/<metric>/<task>".

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or its model no longer gives the outputs it gave when saved.
        PluginError: A component of the checkpoint is missing or fails.
        RunError: The data are missing.
    """
    model, recipe = load_checkpoint(find_checkpoint(checkpoint), overrides)
    return evaluate_model(model, build_data(recipe).open()["test"])


def grow(
    checkpoint: str | PathLike[str],
    output: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    add: int | None = None,
    init: str = "random",
    body: str | None = None,
    tasks: str | None = None,
    merge: str | None = None,
    import_from: str | None = None,
    remove: str | None = None,
    prune_usage_below: float | None = None,
    iterations: int | None = None,
    script: int | None = None,
    freeze: Literal["none", "old", "all-but-routing"] = "none",
) -> dict[str, Any]:
    """Makes a new run folder with a model that has more capacity, or less, as `ni grow` does.

    Continue training with `resume(output, ["train.steps=N"])`.

    Args:
        checkpoint: A checkpoint or a run folder, whose newest checkpoint is used.
        output: The new run folder, which must not exist.
        overrides: Changes of the recipe below `train`, `data` and `engine`.
        add: Number of functions to add to each script.
        init: How added functions start: "random", "near=f0,f1" or "mirror=f0", as for `ni grow --init`.
        body: The added functions' own body: the name of a component, or a YAML mapping with `use`.
        tasks: Tasks to add, as "letters:26".
        merge: Checkpoint whose functions are added.
        import_from: File written by `ni export`, whose functions are added.
        remove: Functions to remove, as "f1,f4".
        prune_usage_below: Functions that take less than this share of the held-out elements are removed.
        iterations: New number of iterations.
        script: The script that this concerns; all of them if None.
        freeze: What training leaves unchanged from now on.

    Returns:
        The document that `ni grow --json` prints: "run", "checkpoint", "parameters", "functions", "added", "change" and more.

    Raises:
        UsageError: The request makes no sense for this model. Nothing is written.
        CheckpointError: There is no checkpoint, or it is damaged.
    """
    options = GrowOptions(
        overrides=tuple(overrides),
        add=add,
        init=init,
        body=body,
        merge=merge,
        imported=import_from,
        tasks=tasks,
        remove=remove,
        below=prune_usage_below,
        iterations=iterations,
        script=script,
        freeze=freeze,
    )
    return grow_checkpoint(Path(checkpoint), Path(output), options)
