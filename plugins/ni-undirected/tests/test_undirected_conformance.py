"""The body has what the contract asks of it, in every order."""

from __future__ import annotations

from ni_undirected.undirected import Undirected

from ni_framework.testing import conformance

test_forward = conformance(Undirected, sweeps=1)
test_hidden_first = conformance(Undirected, order="hidden_first", hidden=7)
test_backward = conformance(Undirected, order="backward", sweeps=3)
