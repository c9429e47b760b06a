"""Conformance checks: whether components meet the plugin contract, with an explanation of every failure.

In the tests of a plugin, one line runs all checks of a component, each as a separate test:

    from ni_framework.testing import conformance
    from ni_swirl.swirl import Swirl

    test_swirl = conformance(Swirl)

On the command line, `ni plugin test swirl`; in pytest without a test file, `pytest --conformance swirl`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ni_framework.testing.conform import conformance as conformance
    from ni_framework.testing.conform import run_checks as run_checks
    from ni_framework.testing.failures import Failure as Failure
    from ni_framework.testing.failures import NotApplicable as NotApplicable

# These names are imported on first use, because pytest imports this package wherever the framework is installed.
_TESTING_EXPORTS = {
    "conformance": "ni_framework.testing.conform",
    "run_checks": "ni_framework.testing.conform",
    "Failure": "ni_framework.testing.failures",
    "NotApplicable": "ni_framework.testing.failures",
}
__all__ = list(_TESTING_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _TESTING_EXPORTS:
        return getattr(import_module(_TESTING_EXPORTS[name]), name)
    raise AttributeError(f"module 'ni_framework.testing' has no attribute {name!r}")
