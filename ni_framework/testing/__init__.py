"""Checks of conformance for components: what the contract asks, tried and explained.

In the tests of a plugin, one line tries all of them, each as a test of its own:

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
    from ni_framework.testing.conform import outcomes as outcomes
    from ni_framework.testing.failures import Excused as Excused
    from ni_framework.testing.failures import Failure as Failure

# Imported on first use: pytest imports this package wherever the framework is installed.
_WHERE = {
    "conformance": "ni_framework.testing.conform",
    "outcomes": "ni_framework.testing.conform",
    "Failure": "ni_framework.testing.failures",
    "Excused": "ni_framework.testing.failures",
}
__all__ = list(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'ni_framework.testing' has no attribute {name!r}")
