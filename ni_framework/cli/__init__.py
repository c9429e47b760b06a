"""The command `ni`: one file for each command, which parses options, calls the layers below and prints the result."""

from ni_framework.cli.app import main

__all__ = ["main"]
