"""The command `ni`: words for what the layers below do. One verb, one file, no logic."""

from ni_framework.cli.app import main

__all__ = ["main"]
