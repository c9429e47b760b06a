"""Conformance of both components with the plugin contract."""

from __future__ import annotations

import pytest
from ni_halting.act import ACT
from ni_halting.ponder import Ponder

from ni_framework.testing import conformance

pytestmark = pytest.mark.slow

test_act = conformance(ACT, bias=-1.0, eps=0.1)
test_ponder = conformance(Ponder, mean=2.0, threshold=0.1)
test_ponder_without_threshold = conformance(Ponder, threshold=0)
