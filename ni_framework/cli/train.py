"""`ni train`: trains the model of a recipe."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from ni_framework.cli.output import emit, format_table, json_option, overrides_argument, print_status, report_failure
from ni_framework.errors import UsageError


def _reject_keep(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise UsageError("--keep is now called --keep-last; use --keep-last N")


@click.command("train")
@click.argument("recipe", required=False)
@overrides_argument
@click.option("--output", metavar="DIR", help="The run folder to write (default: runs/<recipe>/<time>).")
@click.option("--every", type=click.IntRange(min=1), metavar="STEPS", help="Save a checkpoint every STEPS steps.")
@click.option(
    "--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep only the newest N checkpoints (default: all)."
)
@click.option(
    "--keep", hidden=True, expose_value=False, is_eager=True, is_flag=False, flag_value="", callback=_reject_keep
)
@click.option("--from", "start", metavar="CHECKPOINT", help="Initialize the model with the weights of this checkpoint.")
@click.option(
    "--resume",
    "resumed",
    metavar="RUN",
    help="Resume an interrupted run, or resume from a checkpoint. Do not give a RECIPE then.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train with N processes on this machine. This needs engine.use=zero.",
)
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard event files to the run folder.")
@json_option
def command(
    recipe: str | None,
    overrides: tuple[str, ...],
    output: str | None,
    every: int | None,
    keep_last: int | None,
    start: str | None,
    resumed: str | None,
    processes: int | None,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train the model of RECIPE, evaluate it on the held-out data, and save it.

    With --resume, a run continues as if it had never stopped. train.steps may be increased.
    """
    from ni_framework.distributed.launcher import check_launch
    from ni_framework.distributed.signals import exit_immediately_on_signal
    from ni_framework.utils.malloc import keep_freed_memory

    check_launch(processes)
    multi_process = processes is not None and processes > 1
    with exit_immediately_on_signal(
        lambda code: report_failure(
            "stopped immediately; checkpoints that were saved before are complete", code, as_json
        )
    ):
        if resumed is not None:
            positional = [recipe] if recipe else []
            run = _prepare_resume(resumed, [*positional, *overrides], output, start, multi_process)
        elif recipe is None:
            raise UsageError("name a RECIPE to train, or a run to resume: ni train --resume RUN")
        else:
            run = _prepare_new_run(recipe, overrides, output, start, multi_process)
        if processes is not None and multi_process:
            raise click.exceptions.Exit(_launch_workers_and_report(processes, as_json))
        keep_freed_memory()
        with _open_listeners(tensorboard) as listeners:
            summary = run(checkpoint_every=every, keep_last=keep_last, listeners=listeners)
    tests = [
        (name.replace("test/", "held-out "), _format_metric(name, value))
        for name, value in summary["metrics"].items()
        if name.startswith("test/")
    ]
    rows = [
        *tests,
        ("training", f"{summary['seconds']:.1f} s"),
        ("run", summary["run"]),
        ("checkpoint", summary["checkpoint"]),
    ]
    emit(summary, format_table(rows), as_json)

    from ni_framework.registry.file_plugins import plugin_cli_options

    print_status(f"next: ni eval {summary['run']}{plugin_cli_options()}")


def _prepare_new_run(
    recipe: str, overrides: Sequence[str], output: str | None, start: str | None, multi_process: bool
) -> Callable[..., dict[str, Any]]:
    from ni_framework.distributed.launcher import check_engine
    from ni_framework.registry import load_recipe

    loaded_recipe = load_recipe(recipe, overrides)
    if multi_process:
        check_engine(loaded_recipe)

    from ni_framework.training.train import train

    return partial(train, loaded_recipe, Path(output) if output else None, init_from=start)


def _prepare_resume(
    resumed: str, overrides: Sequence[str], output: str | None, start: str | None, multi_process: bool
) -> Callable[..., dict[str, Any]]:
    if start is not None:
        raise UsageError(
            "--from starts a new run with the weights of a checkpoint, --resume continues a run; give only one of them"
        )
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"{override}: --resume uses the recipe of its run; do not give another one")

    from ni_framework.checkpoint.resume import read_resume_recipe
    from ni_framework.distributed.launcher import check_engine
    from ni_framework.training.train import resume

    if multi_process:
        check_engine(read_resume_recipe(Path(resumed), overrides))
    return partial(resume, resumed, overrides, Path(output) if output else None)


def _launch_workers_and_report(processes: int, as_json: bool) -> int:
    """Runs this command in several processes and returns its exit code."""
    from ni_framework.distributed.launcher import launch_workers
    from ni_framework.registry.file_plugins import plugin_cli_options

    plugins = shlex.split(plugin_cli_options())
    command = [
        sys.executable,
        "-P",
        "-m",
        "ni_framework",
        "train",
        *plugins,
        *_worker_arguments(click.get_current_context()),
    ]
    result = launch_workers(command, processes)
    if result.message is not None:
        report_failure(result.message, result.exit_code, as_json and result.rank_zero_silent)
    return result.exit_code


def _worker_arguments(context: click.Context) -> list[str]:
    """Returns the arguments of this command without `--processes` and the options for plugins."""
    arguments = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Option) and parameter.name != "processes" and value:
            arguments.append(parameter.opts[0] if parameter.is_flag else f"{parameter.opts[0]}={value}")
    recipe = context.params["recipe"]
    return [*arguments, "--", *([recipe] if recipe is not None else []), *context.params["overrides"]]


@contextmanager
def _open_listeners(tensorboard: bool) -> Iterator[list[object]]:
    from ni_framework.cli.progress import ProgressListener
    from ni_framework.cli.tensorboard import TensorBoardListener

    with ExitStack() as stack:
        boards = [stack.enter_context(TensorBoardListener())] if tensorboard else []
        yield [stack.enter_context(ProgressListener()), *boards]


def _format_metric(name: str, value: float) -> str:
    return f"{value:.2%}" if "accuracy" in name else f"{value:.4f}"
