"""The group of verbs: each is imported when it is called, so that `ni --help` needs neither torch nor a plugin."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module

import click

from ni_framework._version import __version__
from ni_framework.cli.output import fail
from ni_framework.cli.plugin_options import with_plugin_options
from ni_framework.errors import NIError

VERBS = {
    "new": "Write a recipe to start from.",
    "check": "Check a recipe: keys, values, components, and whether their sizes fit together.",
    "train": "Train a recipe's model and save it.",
    "eval": "Evaluate a checkpoint on the held-out part of its data.",
    "inspect": "Show what a trained model is made of: its functions, its figures, its origin.",
    "diff": "Compare two checkpoints: recipes, parameters, origin, and who takes which element.",
    "grow": "Add functions or tasks to a trained model, or remove functions.",
    "export": "Write functions of a trained model to a file, or what it has otherwise than another.",
    "bench": "Measure a recipe's model: speed and memory, beside a transformer.",
    "plot": "Draw a run, or compare several, as one PNG.",
    "verify": "Compare a checkpoint with what it says of itself.",
    "schema": "Print a JSON Schema of recipes with all installed components.",
    "plugin": "Begin a plugin, or try one: plugin new, plugin test.",
    "ls": "List the installed components.",
    "show": "Show a recipe as it is understood, or a component's options.",
}


class Verbs(click.Group):
    """Lists verbs from the table above and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return with_plugin_options(import_module(f"ni_framework.cli.{cmd_name}").command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(VERBS)}"
            ctx.fail(f"there is no command '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ni")
def ni() -> None:
    """Neural Interpreters from YAML recipes."""


def main() -> None:
    """Runs a command; every error ends as a short message and the documented exit code (NI_DEBUG=1 shows tracebacks)."""
    as_json = "--json" in sys.argv[1:]
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # what goes wrong between processes is told, and not as a stack
    try:
        sys.exit(ni.main(prog_name="ni", standalone_mode=False))  # a number where a verb ends with `Exit`, else None
    except click.Abort:
        sys.exit(fail("interrupted", 130, as_json))
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "ni"
        sys.exit(fail(f"{error.format_message()}\n  help: {where} --help", 2, as_json))
    except NIError as error:
        if os.environ.get("NI_DEBUG") == "1":
            raise
        sys.exit(fail(error, error.exit_code, as_json))
    except KeyboardInterrupt:
        sys.exit(fail("interrupted; nothing was saved since the last checkpoint", 130, as_json))
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if os.environ.get("NI_DEBUG") == "1":
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(
            fail(f"{where}{error.strerror or error}; check the path, its permissions and the space left", 1, as_json)
        )
    except Exception as error:
        if os.environ.get("NI_DEBUG") == "1":
            raise
        message = f"ni itself failed: {type(error).__name__}: {error}"
        sys.exit(fail(f"{message}\n  help: set NI_DEBUG=1 for the traceback and report it", 1, as_json))
