"""Both ways of halting have what the contract asks of them."""

from __future__ import annotations

from ni_halting.act import ACT
from ni_halting.ponder import Ponder

from ni_framework.testing import conformance

test_act = conformance(ACT, bias=-1.0, eps=0.1)
test_ponder = conformance(Ponder, mean=2.0, threshold=0.1)
test_ponder_to_the_end = conformance(Ponder, threshold=0)
