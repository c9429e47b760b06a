"""`ni train`: from a recipe to a trained model."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from ni_framework.cli.output import emit, fail, json_option, narrate, overrides_argument, table
from ni_framework.errors import UsageError


@click.command("train")
@click.argument("recipe", required=False)
@overrides_argument
@click.option("--output", metavar="DIR", help="The run folder (default: runs/<recipe>/<time>).")
@click.option("--every", type=click.IntRange(min=1), metavar="STEPS", help="Steps between two checkpoints.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Checkpoints that stay (default: all).")
@click.option("--from", "start", metavar="CHECKPOINT", help="Begin with this checkpoint's weights.")
@click.option(
    "--resume", "resumed", metavar="RUN", help="Go on with an interrupted run, or from a checkpoint; no RECIPE then."
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Start N processes on this machine that train together; needs engine.use=zero.",
)
@click.option("--tensorboard", is_flag=True, help="Also write event files for TensorBoard, in the run folder.")
@json_option
def command(
    recipe: str | None,
    overrides: tuple[str, ...],
    output: str | None,
    every: int | None,
    keep: int | None,
    start: str | None,
    resumed: str | None,
    processes: int | None,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train RECIPE's model, evaluate it on the held-out part, and save it.

    With --resume, a run goes on as if it had never stopped; train.steps may be raised.
    """
    from ni_framework.distributed.launcher import check_launch
    from ni_framework.distributed.signals import exits_at_once
    from ni_framework.utils.malloc import keep_freed_memory

    check_launch(processes)
    several = processes is not None and processes > 1
    with exits_at_once(lambda code: fail("stopped at once; nothing is lost that was saved before", code, as_json)):
        if resumed is not None:
            given = [recipe] if recipe else []
            go = _resumed(resumed, [*given, *overrides], output, start, several)
        elif recipe is None:
            raise UsageError("name a RECIPE to train, or a run to go on with: ni train --resume RUN")
        else:
            go = _begun(recipe, overrides, output, start, several)
        if processes is not None and several:
            raise click.exceptions.Exit(_together(processes, as_json))
        keep_freed_memory()
        with _listeners(tensorboard) as listeners:
            summary = go(every=every, keep=keep, listeners=listeners)
    tests = [
        (name.replace("test/", "held-out "), _shown(name, value))
        for name, value in summary["metrics"].items()
        if name.startswith("test/")
    ]
    rows = [
        *tests,
        ("training", f"{summary['seconds']:.1f} s"),
        ("run", summary["run"]),
        ("checkpoint", summary["checkpoint"]),
    ]
    emit(summary, table(rows), as_json)

    from ni_framework.registry.file_plugins import plugin_options

    narrate(f"next: ni eval {summary['run']}{plugin_options()}")


def _begun(
    recipe: str, overrides: Sequence[str], output: str | None, start: str | None, several: bool
) -> Callable[..., dict[str, Any]]:
    from ni_framework.distributed.launcher import check_engine
    from ni_framework.registry import load_recipe

    checked = load_recipe(recipe, overrides)
    if several:
        check_engine(checked)

    from ni_framework.training.train import train

    return partial(train, checked, Path(output) if output else None, start=start)


def _resumed(
    resumed: str, overrides: Sequence[str], output: str | None, start: str | None, several: bool
) -> Callable[..., dict[str, Any]]:
    if start is not None:
        raise UsageError(
            "--from begins a new run with a checkpoint's weights, --resume goes on with a run; give one of them"
        )
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"{override}: --resume takes the recipe of its run; leave the recipe out")

    from ni_framework.checkpoint.resume import recipe_of
    from ni_framework.distributed.launcher import check_engine
    from ni_framework.training.train import resume

    if several:
        check_engine(recipe_of(Path(resumed), overrides))
    return partial(resume, resumed, overrides, Path(output) if output else None)


def _together(processes: int, as_json: bool) -> int:
    """Has several processes carry this command out, and returns the exit code."""
    from ni_framework.distributed.launcher import supervise
    from ni_framework.registry.file_plugins import plugin_options

    plugins = shlex.split(plugin_options())
    command = [sys.executable, "-P", "-m", "ni_framework", "train", *plugins, *_words(click.get_current_context())]
    verdict = supervise(command, processes)
    if verdict.message is not None:
        fail(verdict.message, verdict.exit_code, as_json and verdict.silent)
    return verdict.exit_code


def _words(context: click.Context) -> list[str]:
    """The words of this command, without `--processes` and the options for plugins."""
    words = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Option) and parameter.name != "processes" and value:
            words.append(parameter.opts[0] if parameter.is_flag else f"{parameter.opts[0]}={value}")
    recipe = context.params["recipe"]
    return [*words, "--", *([recipe] if recipe is not None else []), *context.params["overrides"]]


@contextmanager
def _listeners(tensorboard: bool) -> Iterator[list[object]]:
    from ni_framework.cli.progress import Progress
    from ni_framework.cli.tensorboard import TensorBoard

    with ExitStack() as stack:
        boards = [stack.enter_context(TensorBoard())] if tensorboard else []
        yield [stack.enter_context(Progress()), *boards]


def _shown(name: str, value: float) -> str:
    return f"{value:.2%}" if "accuracy" in name else f"{value:.4f}"
