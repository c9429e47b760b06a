"""The group of commands. Each is imported when it is called, so that `ni --help` imports neither torch nor a plugin."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module

import click

from ni_framework._version import __version__
from ni_framework.cli.output import report_failure
from ni_framework.cli.plugin_options import add_plugin_options
from ni_framework.errors import NIError

COMMANDS = {
    "new": "Write a recipe to start from.",
    "check": "Check a recipe: its keys, values and components, and whether the sizes fit together.",
    "train": "Train the model of a recipe and save it.",
    "eval": "Evaluate a checkpoint on its held-out data.",
    "inspect": "Show the functions, the metrics and the origin of a trained model.",
    "diff": "Compare two checkpoints: recipes, parameters, origin and routing.",
    "grow": "Add functions or tasks to a trained model, or remove functions.",
    "export": "Write functions of a trained model, or its difference from another one, to a file.",
    "bench": "Measure the speed and the memory of a recipe's model, and compare it with a transformer.",
    "plot": "Plot one run, or compare several, in a PNG file.",
    "verify": "Verify the files of a checkpoint and that its model has the same outputs as when saved.",
    "schema": "Print a JSON Schema of recipes that includes all installed components.",
    "plugin": "Create a plugin (plugin new) or check one (plugin test).",
    "ls": "List the installed components.",
    "show": "Show a complete recipe with all defaults, or the options of a component.",
}


class LazyCommandGroup(click.Group):
    """Lists the commands of the table above and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return add_plugin_options(import_module(f"ni_framework.cli.{cmd_name}").command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"the commands are: {', '.join(COMMANDS)}"
            ctx.fail(f"there is no command '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyCommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ni")
def ni() -> None:
    """Train, inspect and grow Neural Interpreters that are described by YAML recipes."""


def main() -> None:
    """Runs a command. Every error becomes a short message and the documented exit code; NI_DEBUG=1 shows tracebacks."""
    as_json = "--json" in sys.argv[1:]
    # Communication errors between ranks are reported by ni itself, without the C++ stack traces that torch would log.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        # `main` returns the exit code of a command that raises `Exit`, and None otherwise.
        sys.exit(ni.main(prog_name="ni", standalone_mode=False))
    except click.Abort:
        sys.exit(report_failure("interrupted", 130, as_json))
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "ni"
        sys.exit(report_failure(f"{error.format_message()}\n  help: {where} --help", 2, as_json))
    except NIError as error:
        if os.environ.get("NI_DEBUG") == "1":
            raise
        sys.exit(report_failure(error, error.exit_code, as_json))
    except KeyboardInterrupt:
        sys.exit(report_failure("interrupted; nothing was saved since the last checkpoint", 130, as_json))
    except BrokenPipeError:
        # The program that reads our output has ended; Python must not write to the closed pipe when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if os.environ.get("NI_DEBUG") == "1":
            raise
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}; check the path, its permissions and the space left"
        sys.exit(report_failure(message, 1, as_json))
    except Exception as error:
        if os.environ.get("NI_DEBUG") == "1":
            raise
        message = f"ni itself failed: {type(error).__name__}: {error}"
        sys.exit(report_failure(f"{message}\n  help: set NI_DEBUG=1 for the traceback and report it", 1, as_json))
