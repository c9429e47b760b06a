"""The exceptions that conformance checks raise."""

from __future__ import annotations


class Failure(AssertionError):
    """A component lacks the property that a check tests. The message is shown to the author of the component."""

    # `pytest_plugin` recognizes failures by this attribute, because it must not import this module.
    is_conformance_failure = True


class NotApplicable(Exception):
    """A check does not apply to a component; the message is the reason."""
