"""Options of every command that select which plugins it may use."""

from __future__ import annotations

import os

import click


def _use_plugin_files(_: click.Context, __: click.Parameter, paths: tuple[str, ...]) -> None:
    from ni_framework.registry.file_plugins import add_plugin_file

    for path in paths:
        add_plugin_file(path)


def _disable_plugins(_: click.Context, __: click.Parameter, chosen: bool) -> None:
    if chosen:
        os.environ["NI_PLUGINS"] = ""


def add_plugin_options(command: click.Command) -> click.Command:
    """Adds `--plugin FILE` and `--no-plugins` to a command, or to each command of a group, and returns it."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_plugin_options(inner)
    elif not any(parameter.name == "no_plugins" for parameter in command.params):
        command.params += [
            click.Option(
                ["--plugin"],
                multiple=True,
                metavar="FILE",
                expose_value=False,
                callback=_use_plugin_files,
                help="Also use the components in this Python file. The option may be repeated.",
            ),
            click.Option(
                ["--no-plugins"],
                is_flag=True,
                expose_value=False,
                callback=_disable_plugins,
                help="Do not use any installed plugin, as if NI_PLUGINS were empty.",
            ),
        ]
    return command
