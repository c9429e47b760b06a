"""The conformance checks, in the order in which they run. Importing the modules below registers their checks."""

from __future__ import annotations

from collections.abc import Mapping

from ni_framework.testing.checks.check import CHECKS, Check

# The order of these imports is the order of the checks.
from ni_framework.testing.checks import packaging as packaging  # isort: skip
from ni_framework.testing.checks import state as state  # isort: skip
from ni_framework.testing.checks import symmetry as symmetry  # isort: skip
from ni_framework.testing.checks import gradient as gradient  # isort: skip
from ni_framework.testing.checks import execution as execution  # isort: skip
from ni_framework.testing.checks import per_kind as per_kind  # isort: skip
from ni_framework.testing.checks import zero_parity as zero_parity  # isort: skip


def checks_for_kind(kind: str) -> Mapping[str, Check]:
    """Returns the checks for a kind of component, by name."""
    return {name: check for name, check in CHECKS.items() if kind in check.kinds}
