"""Which plugins a command may use: options that every verb has."""

from __future__ import annotations

import os

import click


def _use(_: click.Context, __: click.Parameter, paths: tuple[str, ...]) -> None:
    from ni_framework.registry.file_plugins import use_file

    for path in paths:
        use_file(path)


def _use_none(_: click.Context, __: click.Parameter, chosen: bool) -> None:
    if chosen:
        os.environ["NI_PLUGINS"] = ""


def with_plugin_options(command: click.Command) -> click.Command:
    """The command, or each command of a group, with `--plugin FILE` and `--no-plugins`."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_plugin_options(inner)
    elif not any(parameter.name == "no_plugins" for parameter in command.params):
        command.params += [
            click.Option(
                ["--plugin"],
                multiple=True,
                metavar="FILE",
                expose_value=False,
                callback=_use,
                help="Also use the components in this Python file.",
            ),
            click.Option(
                ["--no-plugins"],
                is_flag=True,
                expose_value=False,
                callback=_use_none,
                help="Use no installed plugin, as with NI_PLUGINS= (empty).",
            ),
        ]
    return command
