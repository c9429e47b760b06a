"""Conformance of the body with the plugin contract, in every order of updates."""

from __future__ import annotations

import pytest
from ni_undirected.undirected import Undirected

from ni_framework.testing import conformance

pytestmark = pytest.mark.slow

test_forward = conformance(Undirected, sweeps=1)
test_hidden_first = conformance(Undirected, order="hidden_first", hidden=7)
test_backward = conformance(Undirected, order="backward", sweeps=3)
