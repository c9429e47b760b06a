"""What a conformance check raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class Failure(AssertionError):
    """A component that has not the property that a check looks for; its text is meant to be read as it stands."""

    is_conformance_failure = True  # by which `pytest_plugin` knows it without importing this


class Excused(Exception):
    """A check that says nothing about this component, and why."""
